//! Plain lines for logs and pipes: every stage's start and end, and its progress from time to time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::view::{Track, View};
use crate::cli::terminal::{Console, Level};
use crate::observe::{ExecutorProgress, Stage, format};

pub(super) struct Lines {
    console: Arc<Console>,
    last: HashMap<Stage, Instant>,
    /// When executors were first and last shown.
    executors: Option<(Instant, Instant)>,
}

impl Lines {
    pub(super) fn new(console: Arc<Console>) -> Self {
        Self { console, last: HashMap::new(), executors: None }
    }
}

/// Executors that are shown one by one; of more, only the stragglers.
const MOST_EXECUTORS: usize = 16;

/// Pause between two lines of one stage: quick at first, so that a person sees life, then slow
/// enough for a night's log.
fn pause(running: Duration) -> Duration {
    match running.as_secs() {
        0..60 => Duration::from_secs(5),
        60..600 => Duration::from_secs(15),
        _ => Duration::from_secs(60),
    }
}

impl View for Lines {
    fn started(&mut self, track: &Track) {
        let name = track.stage.name();
        let line = match track.total {
            0 => format!("{name}: started"),
            total => format!("{name}: {} to do", format::units(total, track.unit)),
        };
        self.console.line(Level::Plain, &line);
        self.last.insert(track.stage, Instant::now());
    }

    fn progress(&mut self, track: &Track) {
        let due = self
            .last
            .get(&track.stage)
            .is_none_or(|last| last.elapsed() >= pause(track.began.elapsed()));
        if !due {
            return;
        }
        self.last.insert(track.stage, Instant::now());
        let mut line = format!("{}: {}", track.stage.name(), format::count(track.done));
        if track.total > 0 {
            line.push_str(&format!("/{}", format::count(track.total)));
        }
        line.push_str(&format!(" {}", track.unit));
        let pace = track.pace();
        if !pace.is_empty() {
            line.push_str(&format!(", {pace}"));
        }
        self.console.line(Level::Plain, &line);
    }

    fn executors(&mut self, executors: &[ExecutorProgress]) {
        let now = Instant::now();
        let (first, last) = self.executors.unwrap_or((now, now));
        let due = now - last >= pause(now - first);
        self.executors = Some((first, if due { now } else { last }));
        if !due {
            return;
        }
        let slow = executors.iter().filter(|executor| executor.straggler);
        let shown: Vec<_> = match executors.len() {
            0..=MOST_EXECUTORS => executors.iter().collect(),
            _ => slow.take(MOST_EXECUTORS).collect(),
        };
        for executor in &shown {
            self.console.line(Level::Plain, &format!("executor {executor}"));
        }
        if shown.len() < executors.len() {
            let more = executors.len() - shown.len();
            self.console.line(Level::Plain, &format!("and {more} more executors"));
        }
    }

    fn finished(&mut self, stage: Stage, seconds: f64, summary: &str) {
        self.last.remove(&stage);
        let time = format::seconds(seconds);
        self.console.line(Level::Plain, &format!("{}: {summary} ({time})", stage.name()));
    }

    fn message(&mut self, level: Level, text: &str) {
        self.console.line(level, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_writes_few_lines() {
        assert_eq!(pause(Duration::from_secs(3)), Duration::from_secs(5));
        assert_eq!(pause(Duration::from_secs(90_000)), Duration::from_secs(60));
    }
}
