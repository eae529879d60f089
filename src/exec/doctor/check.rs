//! What is looked at, and how it was found to be.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::Reporter;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Fine,
    /// A run goes through, but slower or nearer to a limit than it could.
    Warning,
    /// A run would fail.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is, in a word or two.
    pub name: String,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it; absent where it is fine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
    /// What kind of failure a run would end with.
    #[serde(skip)]
    pub kind: ErrorKind,
}

impl Check {
    pub(super) fn fine(name: impl Into<String>, found: impl Into<String>) -> Self {
        let (name, found) = (name.into(), found.into());
        Self { name, health: Health::Fine, found, way_out: None, kind: ErrorKind::Internal }
    }

    pub(super) fn warning(
        name: impl Into<String>,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        let way_out = Some(way_out.into());
        Self { health: Health::Warning, way_out, ..Self::fine(name, found) }
    }

    pub(super) fn wrong(
        name: impl Into<String>,
        found: impl Into<String>,
        way_out: impl Into<String>,
        kind: ErrorKind,
    ) -> Self {
        Self { health: Health::Wrong, kind, ..Self::warning(name, found, way_out) }
    }

    /// What an error says: its message names the way out.
    pub(super) fn failed(name: impl Into<String>, error: &Error) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        let found = format!("{error}{}", cause.unwrap_or_default());
        let way_out = error.hint().map(str::to_owned);
        let kind = error.kind();
        Self { health: Health::Wrong, way_out, kind, ..Self::fine(name, found) }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkup {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

impl Checkup {
    /// The first thing that is wrong.
    pub fn first_wrong(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.health == Health::Wrong)
    }

    /// How many things are so.
    pub fn count(&self, health: Health) -> usize {
        self.checks.iter().filter(|check| check.health == health).count()
    }
}

/// What to look at.
#[derive(Clone)]
pub struct CheckupRequest {
    /// What a run would work with; `None`: the machine alone.
    pub pipeline: Option<Pipeline>,
    /// Where files of remote roots are kept.
    pub cache: PathBuf,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
}

/// Looks at what may keep a thread waiting: a disk, a device.
///
/// # Errors
/// Internal, where `look` panicked.
pub(super) async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(look)
        .await
        .or_error(ErrorKind::Internal, || "looking at this machine")
}
