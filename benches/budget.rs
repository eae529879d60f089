//! The time that `benches/steps.py` gives a step (STEP_SECONDS), for parts that are cut before they begin.

use std::time::{Duration, Instant};

/// When the step will have to end; without a limit never.
pub struct Budget(Option<Instant>);

impl Budget {
    /// Of a step that begins now.
    pub fn new() -> Self {
        let limit = std::env::var("STEP_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
        // A tenth is for what is not foreseen.
        let limit = limit.filter(|seconds| *seconds > 0.).map(|seconds: f64| 0.9 * seconds);
        let limit = limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// Seconds left.
    pub fn left(&self) -> f64 {
        let left = |end: Instant| end.saturating_duration_since(Instant::now()).as_secs_f64();
        self.0.map_or(f64::INFINITY, left)
    }
}
