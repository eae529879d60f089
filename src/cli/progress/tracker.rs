//! Follows the events of a run and has them shown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bars::Bars;
use super::json::Json;
use super::lines::Lines;
use super::view::{Track, View};
use crate::cli::args::ProgressMode;
use crate::cli::terminal::{Console, Level};
use crate::observe::{Event, Rate, Reporter, Stage};

/// The reporter for the mode that the console was made with.
pub(crate) fn reporter(console: &Arc<Console>) -> Arc<dyn Reporter> {
    let view: Box<dyn View> = match console.progress {
        ProgressMode::Bars => Box::new(Bars::new(Arc::clone(console))),
        ProgressMode::Lines | ProgressMode::Auto => Box::new(Lines::new(Arc::clone(console))),
        ProgressMode::Json => Box::new(Json::new(Arc::clone(console))),
        ProgressMode::None => Box::new(Quiet(Arc::clone(console))),
    };
    Arc::new(Tracker(Mutex::new((HashMap::new(), view))))
}

struct Tracker(Mutex<(HashMap<Stage, Track>, Box<dyn View>)>);

impl Reporter for Tracker {
    fn event(&self, event: Event) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (tracks, view) = &mut *state;
        match event {
            Event::StageStarted { stage, total, unit, tokens: total_tokens } => {
                let outer = tracks.remove(&stage);
                let depth = outer.as_ref().map_or(1, |track| track.depth + 1);
                let track = Track {
                    stage,
                    began: Instant::now(),
                    total,
                    total_tokens,
                    unit,
                    done: 0,
                    tokens: 0,
                    rate: Rate::new(),
                    until: None,
                    depth,
                };
                if outer.is_none_or(|outer| (outer.total, outer.unit) != (total, unit)) {
                    view.started(&track);
                }
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
            // Totals are shown, of which it is taken off.
            Event::Lost { .. } => {}
            Event::Limited { stage, total, seconds } => {
                let Some(track) = tracks.get_mut(&stage) else { return };
                let left = Duration::try_from_secs_f64(seconds).ok();
                track.until = left.and_then(|left| Instant::now().checked_add(left));
                track.total = total;
            }
            Event::StageFinished { stage, seconds, summary } => match tracks.get_mut(&stage) {
                Some(track) if track.depth > 1 => {
                    track.depth -= 1;
                    tracing::info!(stage = stage.name(), seconds, "{summary}");
                }
                _ => {
                    tracks.remove(&stage);
                    view.finished(stage, seconds, &summary);
                }
            },
            Event::Executors { executors } => view.executors(&executors),
            Event::Warning { message } => view.message(Level::Warning, &message),
            Event::Info { message } => view.message(Level::Plain, &message),
        }
    }
}

/// Warnings only.
struct Quiet(Arc<Console>);

impl View for Quiet {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: ProgressMode, events: impl Fn(&dyn Reporter)) -> String {
        let console = Arc::new(Console::capturing(mode));
        events(reporter(&console).as_ref());
        console.captured()
    }

    fn a_stage(reporter: &dyn Reporter) {
        let stage = Stage::Encode;
        let (total, unit, tokens) = (5_000, "texts", 250_000);
        reporter.event(Event::StageStarted { stage, total, unit, tokens });
        for done in 1..=4_999 {
            reporter.event(Event::Progress { stage, done, tokens: done * 50 });
        }
        reporter.event(Event::Warning { message: "one text is long".into() });
        reporter.event(Event::Info { message: "calibrated".into() });
        reporter.event(Event::StageFinished { stage, seconds: 75.0, summary: "all".into() });
    }

    #[test]
    fn lines_are_few_and_plain() {
        let text = run(ProgressMode::Lines, a_stage);
        assert_eq!(
            text,
            "encode: 5,000 texts to do\nwarning: one text is long\ncalibrated\nencode: all (1m 15s)\n"
        );
    }

    #[test]
    fn json_lines_parse_and_carry_the_pace() {
        let text = run(ProgressMode::Json, |reporter| {
            let stage = Stage::Encode;
            let (total, unit, tokens) = (10, "texts", 1_000);
            reporter.event(Event::StageStarted { stage, total, unit, tokens });
            std::thread::sleep(std::time::Duration::from_millis(20));
            reporter.event(Event::Progress { stage, done: 5, tokens: 500 });
            // Within the pause: left out. The last one never is.
            reporter.event(Event::Progress { stage, done: 6, tokens: 600 });
            reporter.event(Event::Progress { stage, done: 10, tokens: 1_000 });
            reporter.event(Event::StageFinished { stage, seconds: 0.1, summary: "ten".into() });
            a_stage(reporter);
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |event: &str| -> Vec<&serde_json::Value> {
            lines.iter().filter(|line| line["event"] == event).collect()
        };
        assert_eq!(of("stage_started")[0]["tokens"], 1_000);
        let progress = of("progress");
        assert_eq!(progress[0]["done"], 5);
        assert!(progress[0]["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(progress[0]["seconds_left"].as_f64().unwrap() > 0.0);
        assert_eq!(progress[1]["done"], 10);
        assert_eq!(progress[1]["seconds_left"], 0.0);
        assert!(progress.len() < 5, "{}", progress.len());
        assert_eq!(of("stage_started").len(), 2);
        assert_eq!(of("stage_finished")[0]["stage"], "encode");
        assert_eq!(of("warning")[0]["message"], "one text is long");
        assert!(lines.iter().all(|line| line["time"].as_str().unwrap().ends_with('Z')));
    }

    #[test]
    fn the_time_left_is_at_most_what_is_allowed() {
        let text = run(ProgressMode::Json, |reporter| {
            let stage = Stage::Distill;
            let (total, unit) = (1_000_000, "queries");
            reporter.event(Event::StageStarted { stage, total, unit, tokens: 0 });
            reporter.event(Event::Limited { stage, total, seconds: 60.0 });
            std::thread::sleep(Duration::from_millis(20));
            reporter.event(Event::Progress { stage, done: 5, tokens: 0 });
            reporter.event(Event::Limited { stage, total: 10, seconds: 0.0 });
            reporter.event(Event::Progress { stage, done: 10, tokens: 0 });
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let left = lines[1]["seconds_left"].as_f64().unwrap();
        assert!(left > 50.0 && left <= 60.0, "{text}");
        assert_eq!(
            (lines[2]["total"].as_u64(), lines[2]["seconds_left"].as_f64()),
            (Some(10), Some(0.0))
        );
    }

    #[test]
    fn a_stage_within_itself_ends_once() {
        let text = run(ProgressMode::Lines, |reporter| {
            let stage = Stage::Prepare;
            for total in [0, 0, 400] {
                reporter.event(Event::StageStarted { stage, total, unit: "rows", tokens: 0 });
            }
            for summary in ["read", "sorted", "400 notes"] {
                let (seconds, summary) = (1.0, summary.to_owned());
                reporter.event(Event::StageFinished { stage, seconds, summary });
            }
        });
        assert_eq!(text, "prepare: started\nprepare: 400 rows to do\nprepare: 400 notes (1.0s)\n");
    }

    #[test]
    fn quiet_still_warns() {
        assert_eq!(run(ProgressMode::None, a_stage), "warning: one text is long\n");
    }
}
