//! What a connection is at, and how long its client may keep the server waiting there.

use std::time::Duration;

use crate::serve::limits::Limits;

/// Bytes that earn a second more for the rest.
const BYTES_PER_SECOND: u64 = 32 << 10;

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A new connection, or a request's head has begun.
    Head,
    /// A request's body is being read.
    Body,
    /// The server computes; the client waits.
    Working,
    /// The answer is being sent.
    Answer,
    /// Kept open for the next request.
    Idle,
}

/// How long a client may keep the server waiting, by phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    head: Duration,
    body: Duration,
    unread: Duration,
    idle: Duration,
}

impl Patience {
    pub fn of(limits: &Limits) -> Self {
        let Limits { head, timeout, unread, idle, .. } = *limits;
        Self { head, body: timeout, unread, idle }
    }

    /// Time for a phase in which `moved` bytes of an answer were sent; none where it is the client who waits.
    pub fn with(&self, phase: Phase, moved: u64) -> Option<Duration> {
        match phase {
            Phase::Head => Some(self.head),
            Phase::Body => Some(self.body),
            Phase::Working => None,
            Phase::Answer => {
                let earned = Duration::from_millis(moved.saturating_mul(1_000) / BYTES_PER_SECOND);
                Some(self.unread + earned)
            }
            Phase::Idle => Some(self.idle),
        }
    }
}

/// Why the server closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum Reason {
    /// No whole head within its time.
    Head,
    /// No request within the time that it is kept open.
    Idle,
    /// The answer was not read.
    Unread,
    /// Another took its place.
    Place,
    /// Another took the memory that its request or answer held.
    Memory,
    /// Too many files were open.
    Descriptors,
    /// The server stops.
    Stop,
}

impl Reason {
    /// In the order of the variants.
    pub const NAMES: [&str; 7] =
        ["head_timeout", "idle_timeout", "unread", "place", "memory", "descriptors", "stop"];
}
