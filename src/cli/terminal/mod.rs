//! stdout and stderr: results, messages, log lines, and how a failure is reported.

mod console;
pub(super) mod failure;
pub(super) mod logging;

pub(super) use console::{Console, Level, now, printed};
