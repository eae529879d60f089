//! Speed over the last half minute, and the time left that follows from it.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back the speed looks: long enough to smooth batches, short enough to follow a change.
const WINDOW: Duration = Duration::from_secs(30);

/// How far points are apart at least.
const SPACING: Duration = Duration::from_millis(100);

/// Speed of one stage from its progress events.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    /// (time since the stage began, units done, tokens done); the first is just outside the window.
    points: VecDeque<(Duration, u64, u64)>,
}

impl Rate {
    /// A stage that has just begun.
    pub fn new() -> Self {
        Self { points: VecDeque::from([(Duration::ZERO, 0, 0)]) }
    }

    /// Adds a progress event: `at` since the stage began, `done` units and `tokens` so far.
    /// Events may come out of order from several workers; what would run backwards is dropped.
    pub fn push(&mut self, at: Duration, done: u64, tokens: u64) {
        if let Some(&(newest, last_done, last_tokens)) = self.points.back() {
            if at < newest || done < last_done || tokens < last_tokens {
                return;
            }
            // One point a tenth of a second is plenty and bounds the queue. The newest one is kept once it is that far
            // from the one before it: measured from this event instead, fast events would never leave a point behind.
            let before = self.points.iter().nth_back(1);
            if before.is_some_and(|before| newest - before.0 < SPACING) {
                self.points.pop_back();
            }
        }
        self.points.push_back((at, done, tokens));
        while self.points.len() > 2 && self.points[1].0 + WINDOW < at {
            self.points.pop_front();
        }
    }

    fn per_second(&self, pick: impl Fn(&(Duration, u64, u64)) -> u64) -> Option<f64> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let seconds = (last.0.saturating_sub(first.0)).as_secs_f64();
        let gained = pick(last).saturating_sub(pick(first));
        (seconds > 0.0 && gained > 0).then(|| gained as f64 / seconds)
    }

    /// Units per second; `None` before anything is done.
    pub fn units_per_second(&self) -> Option<f64> {
        self.per_second(|point| point.1)
    }

    /// Tokens per second; `None` where none are counted.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.per_second(|point| point.2)
    }

    /// Seconds until `total` units are done at this speed; `None` where either is unknown. Where `total_tokens` is known
    /// (above 0) the tokens decide, not the units: long texts are encoded first and cost more.
    pub fn seconds_left(&self, total: u64, total_tokens: u64) -> Option<f64> {
        let &(_, done, tokens) = self.points.back()?;
        let (left, speed) = match (total, total_tokens) {
            (0, 0) => return None,
            (total, 0) => (total.saturating_sub(done), self.units_per_second()),
            (_, total) => (total.saturating_sub(tokens), self.tokens_per_second()),
        };
        Some(left as f64 / speed?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_recent_speed() {
        let mut rate = Rate::new();
        assert_eq!(rate.seconds_left(10, 0), None);
        for second in 1..=60u64 {
            rate.push(Duration::from_secs(second), second, second * 100);
        }
        let tokens = rate.tokens_per_second().unwrap();
        assert!((tokens - 100.0).abs() < 1e-9, "{tokens}");
        // Ten times slower from here on: the window forgets the fast minute.
        for step in 1..=10u64 {
            rate.push(Duration::from_secs(60 + step * 10), 60 + step, 6_000 + step * 100);
        }
        let left = rate.seconds_left(80, 0).unwrap();
        assert!((left - 100.0).abs() < 1.0, "{left}");
    }

    /// Devices that finish a batch every few milliseconds report more often than points are kept.
    #[test]
    fn follows_the_recent_speed_however_often_it_is_told() {
        let mut rate = Rate::new();
        let mut done = 0;
        for (from, to, pause, units) in [(0, 60_000, 20, 20), (60_000, 120_000, 50, 5)] {
            for at in (from + pause..=to).step_by(pause) {
                done += units;
                rate.push(Duration::from_millis(at as u64), done, 0);
            }
        }
        let speed = rate.units_per_second().unwrap();
        assert!((speed - 100.0).abs() < 1.0, "{speed}");
    }

    /// 10 texts of 1,000 tokens, then 90 of 100: the work of 19 seconds at 1,000 tokens/s.
    #[test]
    fn long_texts_that_go_first_do_not_raise_the_time_left() {
        let mut rate = Rate::new();
        let (mut texts, mut tokens) = (0, 0);
        for second in 1..=19u64 {
            texts += if second <= 10 { 1 } else { 10 };
            tokens += 1_000;
            rate.push(Duration::from_secs(second), texts, tokens);
            let left = rate.seconds_left(100, 19_000).unwrap();
            assert!((left - (19 - second) as f64).abs() < 1e-9, "{left} after {second}");
            if second == 10 {
                assert_eq!(rate.seconds_left(100, 0), Some(90.0), "by texts it is far too long");
            }
        }
        assert_eq!(rate.seconds_left(0, 19_000), Some(0.0), "units need not be known");
    }

    #[test]
    fn stale_events_do_not_run_backwards() {
        let mut rate = Rate::new();
        rate.push(Duration::from_secs(2), 10, 0);
        rate.push(Duration::from_secs(1), 5, 0);
        rate.push(Duration::from_secs(4), 20, 0);
        assert_eq!(rate.units_per_second(), Some(5.0));
        assert_eq!(rate.tokens_per_second(), None);
        assert_eq!(rate.seconds_left(0, 0), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut rate = Rate::new();
        for tick in 1..100_000u64 {
            rate.push(Duration::from_millis(tick), tick, tick);
        }
        assert!((200..400).contains(&rate.points.len()), "{}", rate.points.len());
    }
}
