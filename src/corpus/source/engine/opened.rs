//! What every engine gives.

use std::sync::Arc;

use datafusion::catalog::TableProvider;

/// An opened table: whatever is read of it, and however often, is of one moment.
#[cfg_attr(
    not(any(feature = "delta", feature = "databases")),
    allow(dead_code, reason = "a build without engines opens none")
)]
pub(in crate::corpus::source) struct Engine {
    pub(in crate::corpus::source) provider: Arc<dyn TableProvider>,
}
