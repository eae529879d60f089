//! The program from its arguments to its exit code.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ColorChoice, FromArgMatches};

use super::app::App;
use super::args::{Color, color_of, environment};
use super::commands::{Cli, Command, command, dispatch};
use super::terminal::{Console, failure, logging, printed};
use super::{memory, progress, signals, variables, version};
use crate::error::{Result, no_thread};
use crate::observe::Reporter;
use crate::types::Cancel;

/// Runs the program and returns its exit code; `commit` is what it was built from, where that is known.
pub fn main(commit: Option<&str>) -> ExitCode {
    failure::guarded(|| run_with(std::env::args_os().collect(), commit))
}

fn run_with(arguments: Vec<OsString>, commit: Option<&str>) -> ExitCode {
    let color = color_of(&arguments);
    let choice = match color {
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
        Color::Auto => ColorChoice::Auto,
    };
    let mut known = command();
    // Kernels are looked up only when the version is asked for.
    if arguments.iter().any(|word| word == "--version") {
        known = known.long_version(version::long(commit));
    }
    known = known.color(choice);
    let parsed = known
        .try_get_matches_from_mut(arguments)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let written = error.print().and_then(|()| std::io::stdout().flush());
            if !error.use_stderr()
                && let Err(error) = printed(written)
            {
                return failure::report(&error, &Console::plain(), None);
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let console = Arc::new(Console::new(&cli.global));
    logging::install(&cli.global, &console);
    let outcome = start(cli, &console);
    console.close();
    match outcome {
        Ok(code) => code,
        Err(error) => failure::report(&error, &console, Some(failure::asked(&known, &matches))),
    }
}

fn start(cli: Cli, console: &Arc<Console>) -> Result<ExitCode> {
    let reporter: Arc<dyn Reporter> = progress::reporter(console);
    let names = environment().into_iter().map(|(name, _)| name);
    variables::unread(names).into_iter().for_each(|said| reporter.warn(said));
    let deadline = match &cli.command {
        Command::Run(args) => args.deadline,
        Command::Task(args) => args.deadline,
        Command::Train(args) => args.deadline,
        Command::Distill(args) => args.deadline,
        _ => None,
    };
    let cancel = deadline.map_or_else(Cancel::new, Cancel::with_deadline);
    // Only these look at `cancel`; the others write nothing that would have to be finished.
    let stopping = match cli.command {
        Command::Run(_)
        | Command::Plan(_)
        | Command::Task(_)
        | Command::Publish(_)
        | Command::Purge(_)
        | Command::Train(_)
        | Command::Mine(_)
        | Command::Whiten(_)
        | Command::Distill(_)
        | Command::Evaluate(_) => Some(
            "stopping after the current batch; what is finished is kept, and the next run resumes \
             (once more to stop at once)",
        ),
        Command::Serve(_) => {
            Some("stopping once every request in flight is answered (once more to stop at once)")
        }
        Command::Cluster(_) => Some(
            "stopping; a task in progress ends after its batch, and others do the rest (once more to stop at once)",
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
        .map_err(|cause| no_thread("starting worker threads", cause))?;
    let app = App { console: Arc::clone(console), reporter, cancel };
    let outcome = runtime.block_on(dispatch(cli.command, &app));
    // A blocking read that nobody waits for must not hold up the exit.
    runtime.shutdown_background();
    outcome
}
