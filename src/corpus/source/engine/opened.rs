//! What every engine gives.
#![cfg_attr(
    not(all(feature = "delta", feature = "databases")),
    allow(dead_code, reason = "engines make it that are not in this build")
)]

use std::sync::Arc;

use datafusion::catalog::TableProvider;

use crate::corpus::outcome::Position;

/// An opened table: whatever is read of it, and however often, is of one moment.
pub(in crate::corpus::source) struct Engine {
    pub(in crate::corpus::source) provider: Arc<dyn TableProvider>,
    /// Where its history is, if it has one that changes can be told of.
    pub(in crate::corpus::source) position: Option<Position>,
    /// What changed since an earlier position, where somebody asked for that, or why that is in doubt.
    pub(in crate::corpus::source) changes: Option<Result<Changes, String>>,
}

impl Engine {
    /// One whose changes nobody knows.
    pub(super) fn new(provider: Arc<dyn TableProvider>) -> Self {
        Self { provider, position: None, changes: None }
    }
}

/// The rows that changed: those of Delta tables as they were before and as they are afterwards, those of databases as they
/// are afterwards.
pub(in crate::corpus::source) struct Changes {
    pub(in crate::corpus::source) provider: Arc<dyn TableProvider>,
    /// Bytes of the files that have them.
    pub(in crate::corpus::source) bytes: u64,
    /// As the report says it.
    pub(in crate::corpus::source) read: String,
}
