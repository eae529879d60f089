//! Draws the events of a run: bars, lines or JSON, on stderr.

mod bars;
mod json;
mod lines;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::args::ProgressMode;
use super::console::{Console, Level};
use crate::observe::{Event, Rate, Reporter, Stage, format};

/// The reporter for the mode that the console was made with.
pub(super) fn reporter(console: &Arc<Console>) -> Arc<dyn Reporter> {
    let view: Box<dyn View> = match console.progress {
        ProgressMode::Bars => Box::new(bars::Bars::new(Arc::clone(console))),
        ProgressMode::Lines | ProgressMode::Auto => {
            Box::new(lines::Lines::new(Arc::clone(console)))
        }
        ProgressMode::Json => Box::new(json::Json::new(Arc::clone(console))),
        ProgressMode::None => Box::new(Quiet(Arc::clone(console))),
    };
    Arc::new(Tracker { state: Mutex::new((HashMap::new(), view)) })
}

/// The time as log lines and JSON progress write it: RFC 3339, UTC, milliseconds.
pub(super) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// A stage as far as it got.
struct Track {
    stage: Stage,
    began: Instant,
    total: u64,
    unit: &'static str,
    done: u64,
    tokens: u64,
    rate: Rate,
}

impl Track {
    /// `845 tok/s, 12s left`, as far as it is known.
    fn pace(&self) -> String {
        let mut parts = Vec::new();
        match (self.rate.tokens_per_second(), self.rate.units_per_second()) {
            (Some(speed), _) => parts.push(format!("{} tok/s", format::rate(speed))),
            (None, Some(speed)) => parts.push(format!("{} {}/s", format::rate(speed), self.unit)),
            (None, None) => {}
        }
        if let Some(left) = self.rate.seconds_left(self.total) {
            parts.push(format!("{} left", format::seconds(left)));
        }
        parts.join(", ")
    }
}

/// How events look.
trait View: Send {
    fn started(&mut self, track: &Track);
    fn progress(&mut self, track: &Track);
    fn finished(&mut self, stage: Stage, seconds: f64, summary: &str);
    fn message(&mut self, level: Level, text: &str);
}

struct Tracker {
    state: Mutex<(HashMap<Stage, Track>, Box<dyn View>)>,
}

impl Reporter for Tracker {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tracks, view) = &mut *state;
        match event {
            Event::StageStarted { stage, total, unit } => {
                let track = Track {
                    stage,
                    began: Instant::now(),
                    total,
                    unit,
                    done: 0,
                    tokens: 0,
                    rate: Rate::new(),
                };
                view.started(&track);
                tracks.insert(stage, track);
            }
            Event::Progress { stage, done, tokens } => {
                let Some(track) = tracks.get_mut(&stage) else { return };
                // A late event of a slower worker must not run the count backwards.
                track.done = track.done.max(done);
                track.tokens = track.tokens.max(tokens);
                track.rate.push(track.began.elapsed(), track.done, track.tokens);
                view.progress(track);
            }
            Event::StageFinished { stage, seconds, summary } => {
                view.finished(stage, seconds, &summary);
                tracks.remove(&stage);
            }
            Event::Warning { message } => view.message(Level::Warning, &message),
            Event::Info { message } => view.message(Level::Plain, &message),
        }
    }
}

/// Warnings only.
struct Quiet(Arc<Console>);

impl View for Quiet {
    fn started(&mut self, _: &Track) {}

    fn progress(&mut self, _: &Track) {}

    fn finished(&mut self, stage: Stage, seconds: f64, summary: &str) {
        tracing::info!(stage = stage.name(), seconds, "{summary}");
    }

    fn message(&mut self, level: Level, text: &str) {
        match level {
            Level::Warning if self.0.json_log => tracing::warn!("{text}"),
            Level::Warning => self.0.line(level, text),
            _ => tracing::info!("{text}"),
        }
    }
}
