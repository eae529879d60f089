//! Writing to the terminal: never panics on a closed pipe, never loses a word of a result, never tears a progress bar.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use indicatif::MultiProgress;

use crate::cli::args::{Color, Global, LogFormat, ProgressMode};
use crate::error::{Error, Result};

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
        Self { progress, ..Self::plain() }
    }

    #[cfg(test)]
    pub fn captured(&self) -> String {
        String::from_utf8(self.captured.lock().unwrap().clone()).unwrap()
    }

    /// Before the flags are known.
    pub fn plain() -> Self {
        Self {
            progress: ProgressMode::None,
            json_log: false,
            color: false,
            bars: None,
            #[cfg(test)]
            captured: std::sync::Mutex::default(),
        }
    }

    pub fn new(global: &Global) -> Self {
        let terminal = io::stderr().is_terminal();
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

    /// Writes a result to stdout.
    ///
    /// # Errors
    /// As [`printed`].
    pub fn print(&self, text: &str) -> Result<()> {
        let write = || write_all(&mut io::stdout().lock(), text.as_bytes());
        printed(match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        })
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
            .map(|c| match c {
                // A query's own indentation commands nothing.
                '\t' => ' ',
                c if c.is_control() && c != '\n' => '\u{fffd}',
                c => c,
            })
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
            // There is nowhere else to say it.
            let _ = io::stderr().lock().write_all(bytes);
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

/// Whether what was written to stdout has arrived. A reader that went away is not an error: the exit code still says how
/// the command ended.
///
/// # Errors
/// Resource where stdout takes no more, as a full disk does. Never one that asks to run again, whatever the system says:
/// the command has done its work, and a rollback would be done twice.
pub(crate) fn printed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            let message = "standard output cannot be written; what it has of this is cut off";
            // What is known of full disks speaks of temporary files.
            let hint = "look at where standard output goes: it takes no more";
            Err(Error::resource(message).with_source(cause).with_hint(hint))
        }
        _ => Ok(()),
    }
}

/// Writes and flushes. Another process that shares stdout may have made it non-blocking, so a full pipe is retried.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    loop {
        let step = match bytes {
            [] => out.flush().map(|()| true),
            _ => out.write(bytes).and_then(|written| match written {
                0 => Err(ErrorKind::WriteZero.into()),
                _ => {
                    bytes = &bytes[written..];
                    Ok(false)
                }
            }),
        };
        match step {
            Ok(true) => return Ok(()),
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(cause) if cause.kind() != ErrorKind::Interrupted => return Err(cause),
            _ => {}
        }
    }
}

/// The time as log lines and JSON progress write it: RFC 3339, UTC, milliseconds.
pub(crate) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes three bytes at a time, blocks in between, and fails in the end if it is to.
    struct Slow {
        taken: Vec<u8>,
        calls: usize,
        end: Option<ErrorKind>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            match (self.calls % 3, self.end) {
                (1, _) => Err(ErrorKind::WouldBlock.into()),
                (2, _) => Err(ErrorKind::Interrupted.into()),
                (_, Some(end)) if self.taken.len() >= 6 => Err(end.into()),
                _ => {
                    let some = &bytes[..bytes.len().min(3)];
                    self.taken.extend_from_slice(some);
                    Ok(some.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_of_a_text_arrives_or_it_is_said() {
        let write = |end| {
            let mut out = Slow { taken: Vec::new(), calls: 0, end };
            let written = write_all(&mut out, b"twelve bytes");
            (printed(written), String::from_utf8(out.taken).unwrap())
        };
        let (written, taken) = write(None);
        assert!(written.is_ok() && taken == "twelve bytes", "{taken}");
        assert!(write(Some(ErrorKind::BrokenPipe)).0.is_ok(), "nobody reads on");
        // A file server that went away as well: schedulers must not have the work done again for that.
        for end in [ErrorKind::StorageFull, ErrorKind::TimedOut, ErrorKind::HostUnreachable] {
            let (written, taken) = write(Some(end));
            assert_eq!(written.unwrap_err().kind(), crate::error::ErrorKind::Resource, "{end}");
            assert_eq!(taken, "twelve");
        }
    }
}
