//! What a stage has done so far, and how that may be shown.

use std::time::Instant;

use crate::cli::terminal::Level;
use crate::observe::{ExecutorProgress, Rate, Stage, format};

/// A stage as far as it got.
pub(super) struct Track {
    pub stage: Stage,
    pub began: Instant,
    pub total: u64,
    /// Expected tokens; 0 if unknown.
    pub total_tokens: u64,
    pub unit: &'static str,
    pub done: u64,
    pub tokens: u64,
    pub rate: Rate,
    /// When its time is over, where that is limited.
    pub until: Option<Instant>,
    /// Starts without an end: a stage may report a part of its work as the same stage.
    pub depth: u32,
}

impl Track {
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.rate.seconds_left(self.total, self.total_tokens);
        let most = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        match (left, most.map(|most| most.as_secs_f64())) {
            (Some(left), Some(most)) => Some(left.min(most)),
            (left, most) => left.or(most),
        }
    }

    /// `845 tok/s, 12s left`, as far as it is known.
    pub fn pace(&self) -> String {
        let mut parts = Vec::new();
        match (self.rate.tokens_per_second(), self.rate.units_per_second()) {
            (Some(speed), _) => parts.push(format::pace(speed, "tok")),
            (None, Some(speed)) => parts.push(format::pace(speed, self.unit)),
            (None, None) => {}
        }
        if let Some(left) = self.seconds_left() {
            parts.push(format!("{} left", format::seconds(left)));
        }
        parts.join(", ")
    }
}

/// How events look; alone, only ends and messages are shown.
pub(super) trait View: Send {
    fn started(&mut self, _: &Track) {}
    fn progress(&mut self, _: &Track) {}
    fn executors(&mut self, _: &[ExecutorProgress]) {}
    fn finished(&mut self, stage: Stage, seconds: f64, summary: &str);
    fn message(&mut self, level: Level, text: &str);
}
