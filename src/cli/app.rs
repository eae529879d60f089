//! What every subcommand works with.

use std::sync::Arc;

use super::terminal::Console;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::Reporter;
use crate::types::Cancel;

/// Where a subcommand prints and reports, and how it is stopped.
pub(crate) struct App {
    pub(super) console: Arc<Console>,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) cancel: Cancel,
}

impl App {
    /// Prints what a command found out: as JSON if that was asked for, else as text.
    pub(super) fn answer<T: serde::Serialize>(
        &self,
        json: bool,
        found: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        self.print(&if json { pretty(found)? } else { text(found) });
        Ok(())
    }

    /// Prints what a command found out as JSON.
    pub(super) fn json<T: serde::Serialize>(&self, found: &T) -> Result<()> {
        self.print(&pretty(found)?);
        Ok(())
    }

    fn print(&self, text: &str) {
        self.console.close();
        self.console.print(text);
    }
}

/// Pretty JSON with a final line feed.
pub(super) fn pretty<T: serde::Serialize>(value: &T) -> Result<String> {
    let mut text =
        serde_json::to_string_pretty(value).or_error(ErrorKind::Internal, || "writing JSON")?;
    text.push('\n');
    Ok(text)
}
