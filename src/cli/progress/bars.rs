//! Bars on a terminal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::view::{Track, View};
use crate::cli::terminal::{Console, Level};
use crate::observe::{ExecutorProgress, Stage, format};

pub(super) struct Bars {
    console: Arc<Console>,
    bars: HashMap<Stage, ProgressBar>,
    executors: BTreeMap<String, ProgressBar>,
}

impl Bars {
    pub(super) fn new(console: Arc<Console>) -> Self {
        Self { console, bars: HashMap::new(), executors: BTreeMap::new() }
    }
}

/// Executors that get a line of their own.
const MOST_EXECUTORS: usize = 16;

fn style(track: &Track) -> ProgressStyle {
    let template = if track.total > 0 {
        "{prefix:>9.bold} {bar:28.cyan} {human_pos}/{human_len} {msg}"
    } else {
        "{prefix:>9.bold} {spinner:.cyan} {human_pos} {msg}"
    };
    // The templates are constants that parse; the default style is the net below them.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("\u{2588}\u{2593}\u{2591}")
}

impl View for Bars {
    fn started(&mut self, track: &Track) {
        let Some(multi) = &self.console.bars else { return };
        let bar = multi.add(ProgressBar::new(track.total));
        bar.set_style(style(track));
        bar.set_prefix(track.stage.name());
        bar.set_message(track.unit);
        bar.enable_steady_tick(Duration::from_millis(200));
        if let Some(old) = self.bars.insert(track.stage, bar) {
            old.finish_and_clear();
        }
    }

    fn progress(&mut self, track: &Track) {
        if let Some(bar) = self.bars.get(&track.stage) {
            if track.total > 0 {
                bar.set_length(track.total);
            }
            bar.set_position(track.done);
            bar.set_message(format!("{}  {}", track.unit, track.pace()));
        }
    }

    fn executors(&mut self, executors: &[ExecutorProgress]) {
        let Some(multi) = &self.console.bars else { return };
        for executor in executors.iter().take(MOST_EXECUTORS) {
            let bar = self.executors.entry(executor.executor.clone()).or_insert_with(|| {
                let bar = multi.add(ProgressBar::new_spinner());
                // The template is a constant that parses; the default style is the net below it.
                bar.set_style(
                    ProgressStyle::with_template("          {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_spinner()),
                );
                bar
            });
            bar.set_message(executor.to_string());
        }
    }

    fn finished(&mut self, stage: Stage, seconds: f64, summary: &str) {
        if let Some(bar) = self.bars.remove(&stage) {
            bar.finish_and_clear();
        }
        let name = stage.name();
        let time = format::seconds(seconds);
        let bold = |text: String| {
            if self.console.color { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text }
        };
        let line = format!("{} {summary} ({time})\n", bold(format!("{name:>9}")));
        self.console.raw(line.as_bytes());
    }

    fn message(&mut self, level: Level, text: &str) {
        self.console.line(level, text);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.bars.values().chain(self.executors.values()) {
            bar.finish_and_clear();
        }
    }
}
