//! What every subcommand works with.

use std::path::PathBuf;
use std::sync::Arc;

use super::terminal::Console;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec::learn::LearnContext;
use crate::observe::Reporter;
use crate::tower::DeviceSpec;
use crate::types::Cancel;

/// Where a subcommand prints and reports, and how it is stopped.
pub(crate) struct App {
    pub(super) console: Arc<Console>,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) cancel: Cancel,
}

impl App {
    /// What making a tower is given.
    pub(super) fn learning(
        &self,
        base_dir: PathBuf,
        folder: PathBuf,
        devices: Vec<DeviceSpec>,
    ) -> LearnContext {
        let (reporter, cancel) = (self.reporter.clone(), self.cancel.clone());
        LearnContext { base_dir, folder, devices, reporter, cancel }
    }

    /// Prints what a command found out: as JSON if that was asked for, else as text.
    pub(super) fn answer<T: serde::Serialize>(
        &self,
        json: bool,
        found: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        self.print(&if json { pretty(found)? } else { text(found) })
    }

    /// Prints what a command found out as JSON.
    pub(super) fn json<T: serde::Serialize>(&self, found: &T) -> Result<()> {
        self.print(&pretty(found)?)
    }

    /// Prints the result of a command.
    pub(super) fn print(&self, text: &str) -> Result<()> {
        self.console.close();
        self.console.print(text)
    }

    /// Tells of an error that does not decide how the command ends.
    pub(super) fn warn(&self, error: &Error) {
        let cause = std::error::Error::source(error);
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        self.reporter.warn(format!("{error}{cause}"));
    }

    /// How a command ends that has found something wrong and could, or could not, print that: what is wrong counts.
    pub(super) fn ends(&self, printed: Result<()>, wrong: Option<Error>) -> Result<()> {
        match (printed, wrong) {
            (Err(unprinted), Some(wrong)) => {
                self.warn(&unprinted);
                Err(wrong)
            }
            (printed, None) => printed,
            (Ok(()), Some(wrong)) => Err(wrong),
        }
    }
}

/// Pretty JSON with a final line feed.
pub(super) fn pretty<T: serde::Serialize>(value: &T) -> Result<String> {
    let mut text =
        serde_json::to_string_pretty(value).or_error(ErrorKind::Internal, || "writing JSON")?;
    text.push('\n');
    Ok(text)
}
