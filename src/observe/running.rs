//! A stage from its start to its end, as events.

use std::time::Instant;

use super::{Event, Reporter, Stage};

/// A stage that has begun.
pub(crate) struct Running<'a> {
    reporter: &'a dyn Reporter,
    stage: Stage,
    began: Instant,
}

impl<'a> Running<'a> {
    /// Reports that a stage begins, with what [`Event::StageStarted`] tells of it.
    pub fn begin(
        reporter: &'a dyn Reporter,
        stage: Stage,
        (total, unit): (u64, &'static str),
        tokens: u64,
    ) -> Self {
        let began = Instant::now();
        reporter.event(Event::StageStarted { stage, total, unit, tokens });
        Self { reporter, stage, began }
    }

    /// Reports its end, and says how many seconds it took.
    pub fn end(self, summary: String) -> f64 {
        let (stage, seconds) = (self.stage, self.began.elapsed().as_secs_f64());
        self.reporter.event(Event::StageFinished { stage, seconds, summary });
        seconds
    }
}
