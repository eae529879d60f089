//! Flags of every subcommand: how progress, log lines and errors are written.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

/// Flags of every subcommand.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Global {
    /// How to show progress on stderr.
    #[arg(long, global = true, value_enum, default_value_t = ProgressMode::Auto, env = "SCALINGNOTE_PROGRESS")]
    pub progress: ProgressMode,
    /// Format of log lines and errors on stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "SCALINGNOTE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Log more: -v for events, -vv for details, -vvv for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print only warnings, errors and results.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// When to use colour; NO_COLOR is honoured.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars on a terminal, lines otherwise (JSON with `--log-format json`).
    Auto,
    /// Bars with tokens/s and the time left.
    Bars,
    /// A plain line every few seconds.
    Lines,
    /// One JSON object per line.
    Json,
    /// Warnings only.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// `--color` before the flags are parsed, so that usage errors obey it too.
pub(crate) fn color_of(arguments: &[OsString]) -> Color {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None if word == "--" => return Color::Auto,
            None => continue,
        };
        if let Some(color) = value.and_then(|value| Color::from_str(value, false).ok()) {
            return color;
        }
    }
    Color::Auto
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_known_before_parsing() {
        let of = |words: &[&str]| color_of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of(&["x", "--color", "never", "run"]), Color::Never);
        assert_eq!(of(&["x", "run", "--color=always"]), Color::Always);
        assert_eq!(of(&["x", "--color"]), Color::Auto);
        assert_eq!(of(&["x", "--", "--color=always"]), Color::Auto);
    }
}
