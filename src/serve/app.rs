//! What every request sees.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use super::filters::Filters;
use super::limits::Limits;
use super::metrics::Metrics;
use crate::search::SnapshotWatcher;

/// The service's state, shared by all requests.
pub(super) struct App {
    pub watcher: Arc<SnapshotWatcher>,
    pub limits: Limits,
    pub seats: Arc<Semaphore>,
    pub filters: Filters,
    pub metrics: Metrics,
    pub draining: AtomicBool,
}
