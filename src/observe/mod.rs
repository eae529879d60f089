//! What a run reports while it works. Stages report events; only the CLI draws them.
//!
//! Beside the events: [`Timeline`] (throughput for the run report), [`Rate`] (speed and time left),
//! [`ExecutorProgress`], and how counts, bytes and durations are written for people ([`mod@format`]).

mod executors;
pub mod format;
mod rate;
mod running;
mod timeline;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use executors::ExecutorProgress;
pub use rate::Rate;
pub(crate) use running::Running;
pub use timeline::{Sample, StageTimes, Timeline};

/// A stage of the pipeline.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Read the corpus, write prepared shards, plan.
    Prepare,
    /// Encode texts that no part holds.
    Encode,
    /// Build and audit indexes.
    Build,
    /// Check gates and commit the manifest.
    Publish,
    /// Re-hash and re-encode what a snapshot names.
    Verify,
    /// Train the towers (stage 1 of the paper).
    Train,
    /// Distil the query tower (stage 2 of the paper).
    Distill,
    /// Judge retrieval.
    Evaluate,
}

impl Stage {
    /// Lower-case name, as in reports and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Encode => "encode",
            Self::Build => "build",
            Self::Publish => "publish",
            Self::Verify => "verify",
            Self::Train => "train",
            Self::Distill => "distill",
            Self::Evaluate => "evaluate",
        }
    }
}

/// Something that happened. Carries counts and names, never note text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A stage begins; `total` units of `unit` ("notes", "texts", "shards", ...) are expected, 0 if unknown,
    /// and `tokens` tokens of them, 0 if unknown or if units cost the same however many they have.
    StageStarted {
        /// Which stage.
        stage: Stage,
        /// Expected units, 0 if unknown.
        total: u64,
        /// What is counted.
        unit: &'static str,
        /// Expected tokens, 0 if unknown: where they are known the time left is estimated from them.
        tokens: u64,
    },
    /// `done` units are finished so far; `tokens` so far where the stage counts tokens.
    Progress {
        /// Which stage.
        stage: Stage,
        /// Units finished since the stage began.
        done: u64,
        /// Tokens finished since the stage began, 0 where none are counted.
        tokens: u64,
    },
    /// A task that failed has lost this much of what it had reported as progress; its next attempt reports it once more.
    /// For reporters that add up what tasks report.
    Lost {
        /// Which stage.
        stage: Stage,
        /// Units that are lost.
        done: u64,
        /// Tokens that are lost.
        tokens: u64,
    },
    /// Time ends a stage early: it has `seconds` left, and at most `total` units are expected in all.
    Limited {
        /// Which stage.
        stage: Stage,
        /// Units expected now.
        total: u64,
        /// Seconds that it may still take.
        seconds: f64,
    },
    /// What every executor of a cluster has done for the run so far.
    Executors {
        /// By name.
        executors: Vec<ExecutorProgress>,
    },
    /// A stage ended; `summary` is one line for people.
    StageFinished {
        /// Which stage.
        stage: Stage,
        /// Wall time in seconds.
        seconds: f64,
        /// One line for people.
        summary: String,
    },
    /// Something a person should know; work goes on.
    Warning {
        /// One line.
        message: String,
    },
    /// A step worth a line in the log.
    Info {
        /// One line.
        message: String,
    },
}

/// Receives events; called from many threads, must be quick and must not fail.
pub trait Reporter: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);

    /// [`Event::Warning`].
    fn warn(&self, message: String) {
        self.event(Event::Warning { message });
    }

    /// [`Event::Info`].
    fn info(&self, message: String) {
        self.event(Event::Info { message });
    }
}

/// Drops every event.
#[derive(Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn event(&self, _: Event) {}
}

/// Keeps every event: for tests and for the run report.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<(Instant, Event)>>);

impl Recorder {
    /// What was reported so far, with its time.
    pub fn events(&self) -> Vec<(Instant, Event)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Reporter for Recorder {
    fn event(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push((Instant::now(), event));
    }
}

/// Sends every event to several reporters.
pub struct Tee(pub Vec<Arc<dyn Reporter>>);

impl Reporter for Tee {
    fn event(&self, event: Event) {
        for reporter in &self.0 {
            reporter.event(event.clone());
        }
    }
}

/// Passes each warning on once: for work that reads the same files several times.
pub struct WarnsOnce {
    to: Arc<dyn Reporter>,
    said: Mutex<std::collections::BTreeSet<String>>,
}

impl WarnsOnce {
    /// Passes events on to `to`.
    pub fn new(to: Arc<dyn Reporter>) -> Self {
        Self { to, said: Mutex::default() }
    }
}

impl Reporter for WarnsOnce {
    fn event(&self, event: Event) {
        if let Event::Warning { message } = &event {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if !said.insert(message.clone()) {
                return;
            }
        }
        self.to.event(event);
    }
}

/// Adds up progress. Tasks report what each step did; a driver that runs several tasks of a stage in parallel wraps
/// its reporter in this one, which passes on the stage's totals.
pub struct Summing {
    to: Arc<dyn Reporter>,
    totals: Mutex<std::collections::BTreeMap<Stage, Total>>,
}

/// Units and tokens of a stage. What is lost may be said before the last of it is reported, so each has a sum of its own.
#[derive(Default)]
struct Total {
    reported: (u64, u64),
    lost: (u64, u64),
}

fn add(sum: &mut (u64, u64), done: u64, tokens: u64) {
    *sum = (sum.0 + done, sum.1 + tokens);
}

impl Summing {
    /// Passes totals on to `to`.
    pub fn new(to: Arc<dyn Reporter>) -> Self {
        Self { to, totals: Mutex::default() }
    }
}

impl Reporter for Summing {
    fn event(&self, mut event: Event) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut event {
            // The one task that distils reports totals: its loop is that of `scalingnote distill`.
            Event::Progress { stage: Stage::Distill, .. } => {}
            Event::Progress { stage, done, tokens } => {
                let Total { reported, lost } = totals.entry(*stage).or_default();
                add(reported, *done, *tokens);
                *done = reported.0.saturating_sub(lost.0);
                *tokens = reported.1.saturating_sub(lost.1);
            }
            Event::Lost { stage, done, tokens } => {
                add(&mut totals.entry(*stage).or_default().lost, *done, *tokens);
                return;
            }
            _ => {}
        }
        drop(totals);
        self.to.event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Last(Mutex<Option<Event>>);

    impl Reporter for Last {
        fn event(&self, event: Event) {
            *self.0.lock().unwrap() = Some(event);
        }
    }

    #[test]
    fn tasks_are_added_up_and_training_reports_totals() {
        let last = Arc::new(Last::default());
        let summing = Summing::new(last.clone());
        for (stage, at, expected) in [(Stage::Encode, [2, 3], 5), (Stage::Distill, [128, 256], 256)]
        {
            for done in at {
                summing.event(Event::Progress { stage, done, tokens: 0 });
            }
            let seen = last.0.lock().unwrap().take();
            assert!(
                matches!(seen, Some(Event::Progress { done, .. }) if done == expected),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn what_a_failed_task_lost_counts_once() {
        let last = Arc::new(Last::default());
        let summing = Summing::new(last.clone());
        let stage = Stage::Encode;
        summing.event(Event::Progress { stage, done: 5, tokens: 50 });
        summing.event(Event::Lost { stage, done: 3, tokens: 30 });
        summing.event(Event::Progress { stage, done: 3, tokens: 30 });
        let seen = last.0.lock().unwrap().take();
        assert_eq!(seen, Some(Event::Progress { stage, done: 5, tokens: 50 }));
    }
}
