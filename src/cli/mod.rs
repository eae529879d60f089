//! The command line: the only place that prints, parses flags and draws progress.
//!
//! Results go to stdout, everything else to stderr. One file per subcommand; `commands` lists them, and what several of
//! them share is below them: flags in `args`, the terminal in `terminal` and `progress`.

mod app;
mod args;
mod cluster;
mod commands;
mod completions;
mod config;
mod doctor;
mod explain;
mod init;
mod learn;
mod memory;
mod pipeline;
mod program;
mod progress;
mod purge;
mod schema;
mod search;
mod serve;
mod signals;
mod snapshot;
mod terminal;
mod tower;
mod variables;
mod version;

pub use commands::command;
pub use program::main;
