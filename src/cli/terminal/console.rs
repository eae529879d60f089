//! Writing to the terminal: never panics on a closed pipe, never tears a progress bar.

use std::io::{IsTerminal, Write};

use indicatif::MultiProgress;

use crate::cli::args::{Color, Global, LogFormat, ProgressMode};

/// Weight of a line on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warning,
    Note,
    Plain,
}

/// stdout and stderr of this process.
pub(crate) struct Console {
    pub progress: ProgressMode,
    pub json_log: bool,
    pub color: bool,
    /// Bars, if they are drawn: lines have to go around them.
    pub bars: Option<MultiProgress>,
    /// Takes what would go to stderr.
    #[cfg(test)]
    pub captured: std::sync::Mutex<Vec<u8>>,
}

impl Console {
    #[cfg(test)]
    pub fn capturing(progress: ProgressMode) -> Self {
        Self { progress, json_log: false, color: false, bars: None, captured: Default::default() }
    }

    #[cfg(test)]
    pub fn captured(&self) -> String {
        String::from_utf8(self.captured.lock().unwrap().clone()).unwrap()
    }

    pub fn new(global: &Global) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let json_log = global.log_format == LogFormat::Json;
        let progress = match global.progress {
            _ if global.quiet => ProgressMode::None,
            ProgressMode::Auto if json_log => ProgressMode::Json,
            ProgressMode::Auto | ProgressMode::Bars if terminal => ProgressMode::Bars,
            ProgressMode::Auto | ProgressMode::Bars => ProgressMode::Lines,
            other => other,
        };
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        let bars = (progress == ProgressMode::Bars).then(MultiProgress::new);
        Self {
            progress,
            json_log,
            color,
            bars,
            #[cfg(test)]
            captured: std::sync::Mutex::default(),
        }
    }

    /// Writes a result to stdout. A reader that went away is not an error: the exit code still
    /// says how the command ended.
    pub fn print(&self, text: &str) {
        let write = || {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Writes one line (or several) to stderr.
    pub fn line(&self, level: Level, text: &str) {
        let (label, code) = match level {
            Level::Error => ("error: ", "1;31"),
            Level::Warning => ("warning: ", "1;33"),
            Level::Note => ("note: ", "1;36"),
            Level::Plain => ("", ""),
        };
        // A message may name a file or a note: neither may command the terminal.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c })
            .collect();
        let line = if self.color && !label.is_empty() {
            format!("\u{1b}[{code}m{label}\u{1b}[0m{text}\n")
        } else {
            format!("{label}{text}\n")
        };
        self.raw(line.as_bytes());
    }

    /// Writes bytes to stderr, around the bars.
    pub fn raw(&self, bytes: &[u8]) {
        #[cfg(test)]
        self.captured.lock().unwrap().extend_from_slice(bytes);
        let write = || {
            let _ = std::io::stderr().lock().write_all(bytes);
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Takes the bars off the screen.
    pub fn close(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }
}

/// The time as log lines and JSON progress write it: RFC 3339, UTC, milliseconds.
pub(crate) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
