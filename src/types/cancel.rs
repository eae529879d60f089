//! Cooperative cancellation: Ctrl-C and `--deadline` in one handle that loops ask between steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// Shared by everything one run does. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    cancelled: Arc<AtomicBool>,
    deadline: Option<Instant>,
    stopped: Arc<OnceLock<(ErrorKind, String)>>,
}

impl Cancel {
    /// Never cancelled unless [`Cancel::cancel`] is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also stops once `limit` has passed from now.
    pub fn with_deadline(limit: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(limit), ..Self::default() }
    }

    /// A handle that stops with this one and can be stopped on its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { stopped: Arc::default(), ..self.clone() }
    }

    /// Stops everything that holds a clone with this error; the first one counts.
    pub fn stop(&self, kind: ErrorKind, message: String) {
        let _earlier = self.stopped.set((kind, message));
    }

    /// A clone that also stops once `limit` has passed from now.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        let own = Instant::now().checked_add(limit);
        let deadline = match (self.deadline, own) {
            (Some(ours), Some(own)) => Some(ours.min(own)),
            (ours, own) => ours.or(own),
        };
        Self { deadline, ..self.clone() }
    }

    /// Asks everything that holds a clone to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// True once cancelled or past the deadline.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
            || self.past_deadline()
            || self.stopped.get().is_some()
    }

    /// Waits until it is time to stop.
    pub async fn cancelled(&self) {
        while !self.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What `work` gives, or the error of [`Cancel::check`] once it is time to stop; `work` is dropped then.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            outcome = work => outcome,
            () = self.cancelled() => {
                self.check()?;
                Err(Error::internal("stopped for no reason"))
            }
        }
    }

    /// Time left until the deadline, if there is one.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Errors of kind Cancelled or Deadline, or as [`Cancel::stop`] said, once it is time to stop.
    pub fn check(&self) -> Result<()> {
        if let Some((kind, message)) = self.stopped.get() {
            return Err(Error::new(*kind, message.clone()));
        }
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
        let parent = Cancel::new();
        let child = parent.child();
        child.stop(ErrorKind::Conflict, "taken over".to_owned());
        assert!(child.clone().is_cancelled());
        assert_eq!(child.check().unwrap_err().kind(), ErrorKind::Conflict);
        assert!(parent.check().is_ok());
        let other = parent.child();
        parent.cancel();
        assert_eq!(other.check().unwrap_err().kind(), ErrorKind::Cancelled);
        let late = Cancel::with_deadline(Duration::ZERO);
        assert!(
            late.within(Duration::from_secs(3600)).is_cancelled(),
            "never longer than the whole"
        );
        assert_eq!(late.check().unwrap_err().kind(), ErrorKind::Deadline);
    }
}
