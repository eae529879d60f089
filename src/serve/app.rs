//! What every request sees.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use super::connection::Connections;
use super::filters::Filters;
use super::hosts::Hosts;
use super::limits::Limits;
use super::metrics::Metrics;
use super::page::Page;
use crate::search::SnapshotWatcher;

/// The service's state, shared by all requests.
pub(super) struct App {
    pub watcher: Arc<SnapshotWatcher>,
    pub limits: Limits,
    pub connections: Arc<Connections>,
    pub hosts: Hosts,
    pub seats: Arc<Semaphore>,
    /// Those that wait for a seat.
    pub queue: Semaphore,
    pub filters: Filters,
    pub metrics: Metrics,
    pub page: Page,
    pub draining: AtomicBool,
}
