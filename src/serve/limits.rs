//! What a request may take.

use std::time::Duration;

/// What one request, and all of them together, may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Notes of one answer.
    pub k: usize,
    /// Searches computed at once; one more is refused with 503 and Retry-After.
    pub searches: usize,
    /// Open connections; one more waits to be accepted.
    pub connections: usize,
    /// Time from a request's head to its answer; after it 504.
    pub timeout: Duration,
    /// Time that requests in flight get when the server is asked to stop.
    pub drain: Duration,
    /// Bytes of filters that are kept evaluated.
    pub filters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            body: 1 << 20,
            k: 1_000,
            searches: 4 * cores,
            connections: 1_024,
            timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            filters: 64 << 20,
        }
    }
}
