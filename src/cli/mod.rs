//! The command line: the only place that prints, parses flags and draws progress.
//!
//! Results go to stdout, everything else to stderr. One file per subcommand.

mod args;
mod cluster;
mod completions;
mod config;
mod console;
mod device;
mod distill;
mod duration;
mod evaluate;
mod failure;
mod logging;
mod memory;
mod metrics;
mod mine;
mod pack;
mod pair_file;
mod plan;
mod progress;
mod publish;
mod purge;
mod recipe;
mod root;
mod run;
mod schema;
mod search;
mod serve;
mod signals;
mod snapshot;
mod task;
mod train;
mod trained;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ColorChoice, CommandFactory, FromArgMatches};

use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::Reporter;
use crate::types::Cancel;
use args::{Cli, Command};
use console::Console;

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    failure::guarded(|| run_with(std::env::args_os().collect()))
}

/// The whole command, for completions and documentation.
pub fn command() -> clap::Command {
    Cli::command()
}

/// What every subcommand gets.
pub(crate) struct App {
    console: Arc<Console>,
    reporter: Arc<dyn Reporter>,
    cancel: Cancel,
}

/// Pretty JSON with a final line feed.
pub(crate) fn pretty<T: serde::Serialize>(value: &T) -> Result<String> {
    let mut text =
        serde_json::to_string_pretty(value).or_error(ErrorKind::Internal, || "writing JSON")?;
    text.push('\n');
    Ok(text)
}

fn run_with(arguments: Vec<OsString>) -> ExitCode {
    let color = console::color_of(&arguments);
    let choice = match color {
        console::Color::Always => ColorChoice::Always,
        console::Color::Never => ColorChoice::Never,
        console::Color::Auto => ColorChoice::Auto,
    };
    let parsed = Cli::command()
        .color(choice)
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to fail: `--help | head` is fine.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let console = Arc::new(Console::new(&cli.global));
    logging::install(&cli.global, &console);
    let outcome = start(cli, &console);
    console.close();
    match outcome {
        Ok(code) => code,
        Err(error) => failure::report(&error, &console),
    }
}

fn start(cli: Cli, console: &Arc<Console>) -> Result<ExitCode> {
    let reporter: Arc<dyn Reporter> = progress::reporter(console);
    let cancel = match &cli.command {
        Command::Run(args) => args.deadline.map_or_else(Cancel::new, Cancel::with_deadline),
        Command::Task(args) => args.deadline.map_or_else(Cancel::new, Cancel::with_deadline),
        Command::Train(args) => args.deadline.map_or_else(Cancel::new, Cancel::with_deadline),
        Command::Distill(args) => args.deadline.map_or_else(Cancel::new, Cancel::with_deadline),
        _ => Cancel::new(),
    };
    // Only these look at `cancel`; the others write nothing that would have to be finished.
    let stopping = match cli.command {
        Command::Run(_)
        | Command::Plan(_)
        | Command::Task(_)
        | Command::Publish(_)
        | Command::Purge(_)
        | Command::Train(_)
        | Command::Mine(_)
        | Command::Distill(_)
        | Command::Evaluate(_) => Some(
            "stopping after the batch at hand; what is finished is kept, and the next run resumes \
             (once more to stop at once)",
        ),
        Command::Serve(_) => {
            Some("stopping once every request in flight is answered (once more to stop at once)")
        }
        Command::Cluster(_) => Some(
            "stopping; a work at hand ends after its batch, and others do the rest (once more to stop at once)",
        ),
        _ => None,
    };
    match cli.command {
        Command::Train(_) | Command::Distill(_) => memory::keep_large_blocks(),
        _ => memory::give_back_large_blocks(),
    }
    signals::install(cancel.clone(), stopping, Arc::clone(console))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_error(ErrorKind::Resource, || "starting worker threads")?;
    let app = App { console: Arc::clone(console), reporter, cancel };
    let outcome = runtime.block_on(dispatch(cli.command, &app));
    // A blocking read that nobody waits for must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command, app: &App) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::execute(args, app).await,
        Command::Plan(args) => plan::execute(args, app).await,
        Command::Task(args) => task::execute(args, app).await,
        Command::Publish(args) => publish::execute(args, app).await,
        Command::Purge(args) => purge::execute(args, app).await,
        Command::Search(args) => search::execute(args, app).await,
        Command::Serve(args) => serve::execute(args, app).await,
        Command::Snapshot(args) => snapshot::execute(args, app).await,
        Command::Train(args) => train::execute(args, app).await,
        Command::Mine(args) => mine::execute(args, app).await,
        Command::Distill(args) => distill::execute(args, app).await,
        Command::Cluster(args) => cluster::execute(args, app).await,
        Command::Evaluate(args) => evaluate::execute(args, app).await,
        Command::Config(args) => config::execute(args, app).await,
        Command::Schema(args) => schema::execute(&args, app),
        Command::Completions(args) => completions::execute(&args, app),
    }
}
