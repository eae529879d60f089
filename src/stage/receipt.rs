//! Receipts of tasks that other steps build upon.

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Root, receipt};

/// The receipt at `key` of a finished task.
///
/// # Errors
/// Transient, where the task is not finished.
pub(crate) async fn of_finished<T: DeserializeOwned>(
    root: &Root,
    key: &str,
    task: &str,
) -> Result<T> {
    receipt::read(root, key).await?.ok_or_else(|| {
        Error::new(ErrorKind::Transient, format!("{task} has no receipt yet; run that task first"))
    })
}
