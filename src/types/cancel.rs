//! Cooperative cancellation: Ctrl-C and `--deadline` in one handle that loops ask between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// Shared by everything one run does. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    cancelled: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Cancel {
    /// Never cancelled unless [`Cancel::cancel`] is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also stops once `limit` has passed from now.
    pub fn with_deadline(limit: Duration) -> Self {
        Self { cancelled: Arc::default(), deadline: Instant::now().checked_add(limit) }
    }

    /// A clone that also stops once `limit` has passed from now.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        let own = Instant::now().checked_add(limit);
        let deadline = match (self.deadline, own) {
            (Some(ours), Some(own)) => Some(ours.min(own)),
            (ours, own) => ours.or(own),
        };
        Self { cancelled: Arc::clone(&self.cancelled), deadline }
    }

    /// Asks everything that holds a clone to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// True once cancelled or past the deadline.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.past_deadline()
    }

    /// Time left until the deadline, if there is one.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Errors of kind Cancelled or Deadline once it is time to stop.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "cancelled; what was finished is kept, run again to resume",
            ));
        }
        if self.past_deadline() {
            return Err(Error::new(
                ErrorKind::Deadline,
                "the deadline was reached; what was finished is kept, run again to resume",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancel_reaches_clones_and_deadlines_pass() {
        let cancel = Cancel::new();
        let clone = cancel.clone();
        assert!(clone.check().is_ok());
        cancel.cancel();
        assert_eq!(clone.check().unwrap_err().kind(), ErrorKind::Cancelled);
        let part = Cancel::new();
        assert_eq!(part.within(Duration::ZERO).check().unwrap_err().kind(), ErrorKind::Deadline);
        assert!(part.check().is_ok(), "the whole goes on");
        let hour = part.within(Duration::from_secs(3600));
        part.cancel();
        assert_eq!(hour.check().unwrap_err().kind(), ErrorKind::Cancelled);
        let late = Cancel::with_deadline(Duration::ZERO);
        assert!(
            late.within(Duration::from_secs(3600)).is_cancelled(),
            "never longer than the whole"
        );
        assert_eq!(late.check().unwrap_err().kind(), ErrorKind::Deadline);
    }
}
