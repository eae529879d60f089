//! What the run report needs of the events: time and amount per stage, throughput samples, warnings.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Event, ExecutorProgress, Reporter, Stage};

/// Samples kept per stage; beyond that every second one is dropped, so memory is bounded for any run.
const MAX_SAMPLES: usize = 512;

/// Warnings kept; the rest is only counted.
const MAX_WARNINGS: usize = 200;

/// How far a stage was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// Seconds since the stage began.
    pub seconds: f64,
    /// Units finished until then.
    pub done: u64,
    /// Tokens finished until then.
    pub tokens: u64,
}

/// One stage as its events told it.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTimes {
    /// Which stage.
    pub stage: Stage,
    /// Wall time in seconds; up to now if it has not ended.
    pub seconds: f64,
    /// Units finished.
    pub done: u64,
    /// Tokens finished.
    pub tokens: u64,
    /// At most 512 samples in order of time.
    pub samples: Vec<Sample>,
}

struct Track {
    began: Instant,
    /// Smallest distance between two kept samples, in seconds; doubles when the list is full.
    spacing: f64,
    times: StageTimes,
    ended: bool,
}

#[derive(Default)]
struct Inner {
    tracks: Vec<Track>,
    executors: Vec<ExecutorProgress>,
    warnings: Vec<String>,
    dropped_warnings: usize,
}

/// A [`Reporter`] that condenses events in bounded memory.
#[derive(Default)]
pub struct Timeline(Mutex<Inner>);

impl Timeline {
    /// An empty timeline.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every stage that began, in order.
    pub fn stages(&self) -> Vec<StageTimes> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = |track: &Track| match track.ended {
            true => track.times.clone(),
            false => {
                let seconds = track.began.elapsed().as_secs_f64();
                StageTimes { seconds, ..track.times.clone() }
            }
        };
        inner.tracks.iter().map(times).collect()
    }

    /// One stage, if it began.
    pub fn stage(&self, stage: Stage) -> Option<StageTimes> {
        self.stages().into_iter().find(|times| times.stage == stage)
    }

    /// The executors of a cluster as they were reported last.
    pub fn executors(&self) -> Vec<ExecutorProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).executors.clone()
    }

    /// The warnings so far, at most 200 and a line that counts the rest.
    pub fn warnings(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warnings = inner.warnings.clone();
        if inner.dropped_warnings > 0 {
            warnings.push(format!("and {} more warnings", inner.dropped_warnings));
        }
        warnings
    }
}

impl Inner {
    fn track(&mut self, stage: Stage) -> &mut Track {
        let at = self.tracks.iter().position(|track| track.times.stage == stage);
        let at = at.unwrap_or_else(|| {
            self.tracks.push(Track {
                began: Instant::now(),
                spacing: 0.05,
                times: StageTimes {
                    stage,
                    seconds: 0.0,
                    done: 0,
                    tokens: 0,
                    samples: vec![Sample { seconds: 0.0, done: 0, tokens: 0 }],
                },
                ended: false,
            });
            self.tracks.len() - 1
        });
        &mut self.tracks[at]
    }
}

impl Track {
    fn sample(&mut self, seconds: f64, always: bool) {
        let samples = &mut self.times.samples;
        let last = samples.last().map_or(f64::NEG_INFINITY, |sample| sample.seconds);
        if !always && seconds - last < self.spacing {
            return;
        }
        samples.push(Sample { seconds, done: self.times.done, tokens: self.times.tokens });
        if samples.len() > MAX_SAMPLES {
            *samples = samples.iter().copied().step_by(2).collect();
            self.spacing *= 2.0;
        }
    }
}

impl Reporter for Timeline {
    fn event(&self, event: Event) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::StageStarted { stage, .. } => {
                inner.track(stage);
            }
            Event::Progress { stage, done, tokens } => {
                let track = inner.track(stage);
                // Workers report totals; a late one must not run the count backwards.
                track.times.done = track.times.done.max(done);
                track.times.tokens = track.times.tokens.max(tokens);
                let seconds = track.began.elapsed().as_secs_f64();
                track.sample(seconds, false);
            }
            Event::StageFinished { stage, seconds, .. } => {
                let track = inner.track(stage);
                track.times.seconds = seconds;
                track.ended = true;
                let at = track.began.elapsed().as_secs_f64();
                track.sample(at, true);
            }
            Event::Warning { message } => {
                if inner.warnings.len() < MAX_WARNINGS {
                    inner.warnings.push(message);
                } else {
                    inner.dropped_warnings += 1;
                }
            }
            Event::Executors { executors } => inner.executors = executors,
            Event::Lost { .. } | Event::Limited { .. } | Event::Info { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_totals_and_bounds_samples() {
        let timeline = Timeline::new();
        let (total, unit, tokens) = (9, "texts", 90);
        timeline.event(Event::StageStarted { stage: Stage::Encode, total, unit, tokens });
        {
            // Straight into the track: real time would make this test slow.
            let mut inner = timeline.0.lock().unwrap();
            let track = inner.track(Stage::Encode);
            for tick in 1..=5_000u64 {
                track.times.done = tick;
                track.times.tokens = tick * 10;
                track.sample(tick as f64, false);
            }
        }
        timeline.event(Event::Progress { stage: Stage::Encode, done: 3, tokens: 30 });
        timeline.event(Event::StageFinished {
            stage: Stage::Encode,
            seconds: 5_000.0,
            summary: String::new(),
        });
        let encode = timeline.stage(Stage::Encode).unwrap();
        assert_eq!((encode.done, encode.tokens, encode.seconds), (5_000, 50_000, 5_000.0));
        assert!(encode.samples.len() <= MAX_SAMPLES + 1 && encode.samples.len() > MAX_SAMPLES / 4);
        assert!(timeline.stage(Stage::Build).is_none());
    }

    #[test]
    fn counts_warnings_beyond_the_limit() {
        let timeline = Timeline::new();
        for at in 0..205 {
            timeline.event(Event::Warning { message: format!("w{at}") });
        }
        let warnings = timeline.warnings();
        assert_eq!(warnings.len(), 201);
        assert_eq!(warnings[200], "and 5 more warnings");
    }
}
