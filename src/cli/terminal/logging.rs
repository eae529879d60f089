//! Log lines (`tracing`) on stderr, as text or JSON, never through a progress bar.

use std::io;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::console::{Console, Level};
use crate::cli::args::Global;

/// Filter that beats `-v` and `-q`, e.g. `SCALINGNOTE_LOG=scalingnote::tower=debug`.
pub(crate) const FILTER: &str = "SCALINGNOTE_LOG";

struct ToConsole(Arc<Console>);

impl<'a> MakeWriter<'a> for ToConsole {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

struct Line<'a>(&'a Console);

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.raw(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging. A second call in one process changes nothing.
pub(crate) fn install(global: &Global, console: &Arc<Console>) {
    let default = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "warn,scalingnote=info",
        (_, 2) => "info,scalingnote=debug",
        _ => "trace",
    };
    let filter = match std::env::var(FILTER) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).unwrap_or_else(|error| {
            console.line(
                Level::Warning,
                &format!("{FILTER} is not a log filter and is not used: {error}"),
            );
            EnvFilter::new(default)
        }),
        _ => EnvFilter::new(default),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(console.color)
        .with_writer(ToConsole(Arc::clone(console)));
    // An error means that logging is on already: a second start in one process keeps the first.
    let _ = if console.json_log {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.compact().try_init()
    };
}
