//! What requests and connections may take.

use std::time::Duration;

/// What one request, one connection, and all of them together may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Notes of one answer.
    pub k: usize,
    /// Bytes of one answer.
    pub answer: usize,
    /// Bytes of requests and answers that are held at once, over all connections.
    pub held: usize,
    /// Searches computed at once.
    pub searches: usize,
    /// How long a request waits for its turn to be computed; after it 503 and Retry-After.
    pub turn: Duration,
    /// Open connections, if the system gives so many descriptors. One more takes the place of the one that has kept the
    /// server waiting for the longest.
    pub connections: usize,
    /// Time for a request's head, from its first byte or, on a new connection, from the start.
    pub head: Duration,
    /// Time from a request's head to its answer; after it 504, or 408 where the body is not there yet.
    pub timeout: Duration,
    /// Time that a client may leave its answer unread; each 32 KiB that it reads give it a second more.
    pub unread: Duration,
    /// Time that a connection is kept open for the next request.
    pub idle: Duration,
    /// Time that requests in flight get when the server is asked to stop.
    pub drain: Duration,
    /// Bytes of filters that are kept evaluated.
    pub filters: usize,
    /// Whether there is a page at `/`.
    pub page: bool,
    /// Bytes of files that the page may open of a second snapshot, to compare it with the one in service.
    pub second: u64,
    /// Names that clients may know the server by, beside `localhost` and IP addresses. Where there are none, only a server
    /// on a loopback address looks at what it is called.
    pub hosts: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            body: 1 << 20,
            k: 1_000,
            answer: 8 << 20,
            held: 96 << 20,
            searches: 4 * cores,
            turn: Duration::from_secs(1),
            connections: 1_024,
            head: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            unread: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            drain: Duration::from_secs(30),
            filters: 64 << 20,
            page: true,
            second: 256 << 20,
            hosts: Vec::new(),
        }
    }
}
