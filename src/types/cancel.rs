//! Cooperative cancellation: Ctrl-C and `--deadline` in one handle that loops ask between steps.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};

/// Shared by everything one run does. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    cancelled: Arc<Signal<()>>,
    deadline: Option<Instant>,
    stopped: Arc<Signal<(ErrorKind, String)>>,
}

/// A value that is given once; others look whether it is there, or wait for it.
#[derive(Debug)]
struct Signal<T> {
    value: OnceLock<T>,
    given: Notify,
}

impl<T> Default for Signal<T> {
    fn default() -> Self {
        Self { value: OnceLock::new(), given: Notify::new() }
    }
}

impl<T> Signal<T> {
    fn give(&self, value: T) {
        if self.value.set(value).is_ok() {
            self.given.notify_waiters();
        }
    }

    async fn wait(&self) {
        // Created before the look: it hears of a value that is given in between.
        let given = self.given.notified();
        if self.value.get().is_none() {
            given.await;
        }
    }
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
        self.stopped.give((kind, message));
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
        self.cancelled.give(());
    }

    /// True once cancelled or past the deadline.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.value.get().is_some()
            || self.past_deadline()
            || self.stopped.value.get().is_some()
    }

    /// Waits until it is time to stop.
    pub async fn cancelled(&self) {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.cancelled.wait() => {}
            () = self.stopped.wait() => {}
            () = deadline => {}
        }
    }

    /// Waits for so long, or until it is time to stop.
    ///
    /// # Errors
    /// As [`Cancel::check`].
    pub async fn pause(&self, time: Duration) -> Result<()> {
        self.unless_stopped(async {
            tokio::time::sleep(time).await;
            Ok(())
        })
        .await
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
        if let Some((kind, message)) = self.stopped.value.get() {
            return Err(Error::new(*kind, message.clone()));
        }
        if self.cancelled.value.get().is_some() {
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

    #[tokio::test]
    async fn who_waits_is_woken_at_once() {
        let long = Duration::from_secs(3600);
        let wakes = |cancel: Cancel, wake: fn(&Cancel)| async move {
            let waiting = tokio::spawn({
                let cancel = cancel.clone();
                async move { cancel.pause(Duration::from_secs(3600)).await }
            });
            // It waits by now: this thread runs the one task only.
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            wake(&cancel);
            tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap()
        };
        let cancelled = wakes(Cancel::new(), Cancel::cancel).await.unwrap_err();
        assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
        let stop = |cancel: &Cancel| cancel.stop(ErrorKind::Conflict, "taken over".to_owned());
        let stopped = wakes(Cancel::with_deadline(long).child(), stop).await.unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Conflict);
        let short = Cancel::with_deadline(Duration::from_millis(5));
        assert_eq!(short.pause(long).await.unwrap_err().kind(), ErrorKind::Deadline);
        assert!(Cancel::new().pause(Duration::from_millis(1)).await.is_ok());
        let late = Cancel::new();
        late.cancel();
        late.cancelled().await;
    }

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
