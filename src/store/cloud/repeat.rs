//! Repeating what failed in passing: growing pauses with jitter, a bounded total, an end where the run is cancelled.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::types::Cancel;

/// How often and how long a root repeats a request that failed in passing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeats {
    /// Attempts in all; 1 repeats nothing.
    pub attempts: u32,
    /// Before the second attempt; doubles from there.
    pub first_pause: Duration,
    /// The longest pause, unless the store asks for a longer one.
    pub longest_pause: Duration,
    /// No further attempt starts once so much time has passed.
    pub total: Duration,
}

impl Repeats {
    /// One attempt: memory and local disk have no transient failures.
    pub const NONE: Self = Self {
        attempts: 1,
        first_pause: Duration::ZERO,
        longest_pause: Duration::ZERO,
        total: Duration::ZERO,
    };

    /// What a cloud root does unless its options say otherwise.
    pub const CLOUD: Self = Self {
        attempts: 11,
        first_pause: Duration::from_millis(100),
        longest_pause: Duration::from_secs(15),
        total: Duration::from_secs(180),
    };
}

/// The state of one repeated request.
pub struct Attempts<'a> {
    repeats: &'a Repeats,
    cancel: Option<&'a Cancel>,
    started: Instant,
    made: u32,
}

impl<'a> Attempts<'a> {
    pub fn new(repeats: &'a Repeats, cancel: Option<&'a Cancel>) -> Self {
        Self { repeats, cancel, started: Instant::now(), made: 1 }
    }

    /// Waits before the next attempt: as long as the store asked for, at least as long as it is our turn to wait.
    ///
    /// # Errors
    /// `failed` where it is not a transient failure or no attempt is left; Cancelled or Deadline.
    pub async fn again(&mut self, asked: Option<Duration>, failed: Error) -> Result<()> {
        let pause = self.pause(asked, self.started.elapsed(), failed)?;
        match self.cancel {
            Some(cancel) => cancel.pause(pause).await,
            None => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
        }
    }

    fn pause(
        &mut self,
        asked: Option<Duration>,
        elapsed: Duration,
        failed: Error,
    ) -> Result<Duration> {
        if failed.kind() != ErrorKind::Transient || self.made >= self.repeats.attempts {
            return Err(failed);
        }
        let doubled = self.repeats.first_pause.saturating_mul(1 << (self.made - 1).min(16));
        let ours = doubled.min(self.repeats.longest_pause).mul_f64(rand::random_range(0.5..1.0));
        let pause = asked.unwrap_or_default().max(ours);
        if elapsed + pause >= self.repeats.total {
            return Err(match asked {
                Some(asked) if asked > ours => {
                    failed.context(format!("the store asks to wait {} s", asked.as_secs()))
                }
                _ => failed.context(format!("after {} attempts", self.made)),
            });
        }
        tracing::info!(error = %failed, ?pause, attempt = self.made, "repeating");
        self.made += 1;
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing() -> Error {
        Error::transient("busy")
    }

    #[test]
    fn pauses_grow_are_bounded_and_heed_the_store() {
        let repeats = Repeats { attempts: 5, ..Repeats::CLOUD };
        let mut attempts = Attempts::new(&repeats, None);
        let now = Duration::ZERO;
        for made in 0..4 {
            let pause = attempts.pause(None, now, passing()).unwrap();
            let longest = repeats.first_pause * (1 << made);
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
        }
        let last = attempts.pause(None, now, passing()).unwrap_err();
        assert_eq!(last.kind(), ErrorKind::Transient);

        let mut attempts = Attempts::new(&repeats, None);
        let asked = Duration::from_secs(20);
        assert_eq!(attempts.pause(Some(asked), now, passing()).unwrap(), asked);
        let asked = Some(Duration::from_secs(170));
        let refused = attempts.pause(asked, Duration::from_secs(20), passing()).unwrap_err();
        assert!(refused.to_string().contains("asks to wait 170 s"), "{refused}");
        let late = attempts.pause(None, repeats.total, passing()).unwrap_err();
        assert!(late.to_string().contains("after 2 attempts"), "{late}");
    }

    #[tokio::test]
    async fn what_cannot_pass_and_what_is_cancelled_ends_at_once() {
        let mut attempts = Attempts::new(&Repeats::CLOUD, None);
        let refused = attempts.again(None, Error::input("no such bucket")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Input);
        let cancel = Cancel::new();
        let mut attempts = Attempts::new(&Repeats::CLOUD, Some(&cancel));
        cancel.cancel();
        let stopped = attempts.again(Some(Duration::from_secs(60)), passing()).await.unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Cancelled);
    }
}
