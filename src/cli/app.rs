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

/// Pretty JSON with a final line feed.
pub(crate) fn pretty<T: serde::Serialize>(value: &T) -> Result<String> {
    let mut text =
        serde_json::to_string_pretty(value).or_error(ErrorKind::Internal, || "writing JSON")?;
    text.push('\n');
    Ok(text)
}
