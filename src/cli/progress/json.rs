//! One JSON object a line: the events with the time, and for progress the speed and the time left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::view::{Track, View};
use crate::cli::terminal::{Console, Level, now};
use crate::observe::{ExecutorProgress, Stage};

/// Least pause between two progress lines of one stage.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Json {
    console: Arc<Console>,
    last: HashMap<Stage, Instant>,
}

impl Json {
    pub(super) fn new(console: Arc<Console>) -> Self {
        Self { console, last: HashMap::new() }
    }

    fn write(&self, mut line: Value) {
        line["time"] = now().into();
        self.console.raw(format!("{line}\n").as_bytes());
    }
}

impl View for Json {
    fn started(&mut self, track: &Track) {
        self.write(json!({
            "event": "stage_started",
            "stage": track.stage,
            "total": track.total,
            "unit": track.unit,
            "tokens": track.total_tokens,
        }));
    }

    fn progress(&mut self, track: &Track) {
        let is_last = track.total > 0 && track.done >= track.total;
        let due = self.last.get(&track.stage).is_none_or(|last| last.elapsed() >= PAUSE);
        if !due && !is_last {
            return;
        }
        self.last.insert(track.stage, Instant::now());
        self.write(json!({
            "event": "progress",
            "stage": track.stage,
            "done": track.done,
            "total": track.total,
            "unit": track.unit,
            "tokens": track.tokens,
            "seconds": track.began.elapsed().as_secs_f64(),
            "tokens_per_second": track.rate.tokens_per_second(),
            "seconds_left": track.seconds_left(),
        }));
    }

    fn executors(&mut self, executors: &[ExecutorProgress]) {
        self.write(json!({ "event": "executors", "executors": executors }));
    }

    fn finished(&mut self, stage: Stage, seconds: f64, summary: &str) {
        self.last.remove(&stage);
        self.write(json!({
            "event": "stage_finished",
            "stage": stage,
            "seconds": seconds,
            "summary": summary,
        }));
    }

    fn message(&mut self, level: Level, text: &str) {
        let event = if level == Level::Warning { "warning" } else { "info" };
        self.write(json!({ "event": event, "message": text }));
    }
}
