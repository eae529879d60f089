//! How a failure is reported: `error:`, `caused by:`, a hint, and the exit code.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::{ArgMatches, Command};

use super::console::{Console, Level, now};
use crate::error::{Error, ErrorKind, way_out_of};

/// Where the last panic happened and, if that is not put together from values, what it said. A library's panic over
/// a damaged file becomes an error at its border, so the hook itself prints nothing.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

fn last_panic() -> Option<String> {
    LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs the program so that a panic ends as a clear internal error with exit code 1, without a
/// backtrace.
pub(crate) fn guarded(program: impl FnOnce() -> ExitCode) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
        let fixed = info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = match (fixed, info.payload().downcast_ref::<String>()) {
            (Some(text), _) => text,
            // Such words may quote a note.
            (None, Some(text)) if std::env::var_os("RUST_BACKTRACE").is_some() => text.clone(),
            _ => "its words may quote the data and are shown with RUST_BACKTRACE=1".to_owned(),
        };
        tracing::debug!(%place, "a panic");
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("internal error{place}: {said}"));
    }));
    catch_unwind(AssertUnwindSafe(program)).unwrap_or_else(|_| {
        // `eprintln!` would panic again where stderr is closed.
        let _ = writeln!(
            std::io::stderr(),
            "error: {}\nhint: {}",
            last_panic().unwrap_or_else(|| "internal error".to_owned()),
            hint_of(ErrorKind::Internal, None).unwrap_or_default()
        );
        ExitCode::from(1)
    })
}

/// The subcommand of `program` that these arguments ask for.
pub(crate) fn asked<'a>(program: &'a Command, arguments: &ArgMatches) -> &'a Command {
    let (mut command, mut below) = (program, arguments.subcommand());
    while let Some((name, arguments)) = below {
        let Some(found) = command.find_subcommand(name) else { break };
        (command, below) = (found, arguments.subcommand());
    }
    command
}

/// Prints an error of `command`, where one was understood, and returns its exit code.
pub(crate) fn report(error: &Error, console: &Console, command: Option<&Command>) -> ExitCode {
    let code = error.kind().exit_code();
    let hint = hint_for(error, command);
    let mut causes = causes(error);
    if error.kind() == ErrorKind::Internal {
        causes.extend(last_panic());
    }
    if console.json_log {
        let line = serde_json::json!({
            "timestamp": now(),
            "level": "ERROR",
            "message": error.to_string(),
            "kind": format!("{:?}", error.kind()),
            "caused_by": causes,
            "hint": hint,
            "exit_code": code,
        });
        console.raw(format!("{line}\n").as_bytes());
        return ExitCode::from(code);
    }
    console.line(Level::Error, &error.to_string());
    for cause in &causes {
        console.line(Level::Plain, &format!("  caused by: {cause}"));
    }
    if let Some(hint) = hint {
        console.line(Level::Plain, &format!("  hint: {hint}"));
    }
    ExitCode::from(code)
}

/// The chain of causes, without those whose words the line above has already.
fn causes(error: &Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut above = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        // A task that panicked repeats the panic's words, which may quote a note.
        let text = match text.split_once(" panicked with message ") {
            Some((task, _)) => format!("{task} panicked"),
            None => text.trim().replace('\n', "\n    "),
        };
        if !text.is_empty() && !above.contains(&text) {
            above.clone_from(&text);
            causes.push(text);
        }
        source = cause.source();
    }
    causes
}

/// What a person can do about an error of `command`, by the first that knows: the error itself, the operating system,
/// its kind. No flag is named that the command does not have.
fn hint_for(error: &Error, command: Option<&Command>) -> Option<&'static str> {
    let own = error.hint().filter(|hint| flags_in(hint).all(|flag| has(command, flag)));
    own.or_else(|| system_hint(error)).or_else(|| hint_of(error.kind(), command))
}

/// The long flags that a hint names.
fn flags_in(hint: &str) -> impl Iterator<Item = &str> {
    let words = hint.split(|c: char| c != '-' && !c.is_ascii_alphanumeric());
    words.filter_map(|word| word.strip_prefix("--"))
}

/// Whether a command has this long flag.
fn has(command: Option<&Command>, flag: &str) -> bool {
    // Every command has this one, which clap adds late.
    flag == "help"
        || command.is_some_and(|it| it.get_arguments().any(|one| one.get_long() == Some(flag)))
}

/// What a person can do about what the operating system said, where no line above has it.
fn system_hint(error: &Error) -> Option<&'static str> {
    way_out_of(error).filter(|hint| !error.to_string().contains(hint))
}

/// What a person can do about this kind of failure of `command`, whatever it is about. No flag is named that the
/// command does not have.
fn hint_of(kind: ErrorKind, command: Option<&Command>) -> Option<&'static str> {
    match kind {
        ErrorKind::Usage => Some("`--help` after the subcommand shows its flags with examples"),
        ErrorKind::GateRefused if has(command, "override") => Some(
            "nothing was published; fix the cause, or publish anyway with --override GATE --reason \"why\"",
        ),
        ErrorKind::Transient => Some("run the same command again; what was finished is kept"),
        ErrorKind::Busy if has(command, "wait") => Some(
            "`--wait 30m` waits for it to end; a run that was killed elsewhere is taken over after five minutes",
        ),
        ErrorKind::Busy => Some(
            "run the same command again when it has ended; a run that was killed elsewhere is taken over after five minutes",
        ),
        ErrorKind::Conflict => Some("run the same command again; it starts from the new snapshot"),
        ErrorKind::Internal => Some(
            "this is a bug in scalingnote, not in what you did; please report the lines above with the command",
        ),
        // Their messages say the way out themselves.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{self, GateOptions};

    #[test]
    fn a_panic_is_an_internal_error_with_exit_code_1() {
        let code = guarded(|| panic!("at the disco"));
        let _ = std::panic::take_hook();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
    }

    /// Every subcommand that does something, with its name.
    fn leaves(command: &Command, name: &str) -> Vec<(String, Command)> {
        let below = command.get_subcommands();
        let below: Vec<_> =
            below.flat_map(|it| leaves(it, &format!("{name} {}", it.get_name()))).collect();
        if below.is_empty() { vec![(name.trim().to_owned(), command.clone())] } else { below }
    }

    #[test]
    fn hints_name_only_flags_that_the_command_has() {
        let all = leaves(&crate::cli::commands::command(), "");
        assert!(all.len() >= 30, "{}", all.len());
        let (mut waits, mut overrides) = (Vec::new(), Vec::new());
        for (name, command) in &all {
            let flags: Vec<&str> = command.get_arguments().filter_map(|it| it.get_long()).collect();
            for kind in ErrorKind::ALL {
                let hint = hint_of(kind, Some(command)).unwrap_or_default();
                for flag in flags_in(hint) {
                    let known = flag == "help" || flags.contains(&flag);
                    assert!(known, "{name} has no --{flag}: {hint}");
                    match flag {
                        "wait" => waits.push(name.as_str()),
                        "override" => overrides.push(name.as_str()),
                        _ => {}
                    }
                }
            }
        }
        assert_eq!((waits, overrides), (vec!["run"], vec!["run", "publish"]));
    }

    #[test]
    fn an_errors_own_hint_is_shown_where_the_command_has_its_flags() {
        let gates = GateOptions::default();
        let drift = stage::refuse_drift(Some((0.5, 3)), &gates, false).unwrap_err();
        assert!(flags_in(&drift.to_string()).next().is_none(), "{drift}");
        let shown = |it: Option<&Command>| hint_for(&drift, it).unwrap_or_default();
        for (name, command) in leaves(&crate::cli::commands::command(), "") {
            let hint = shown(Some(&command));
            let can = ["run", "publish"].contains(&name.as_str());
            assert_eq!(hint.contains("--override drift --reason"), can, "{name}: {hint}");
        }
        assert_eq!(shown(None), "");
        assert!(drift.told().ends_with("--reason TEXT"), "{}", drift.told());
    }

    #[test]
    fn the_subcommand_is_found_below_others() {
        let mut program = crate::cli::commands::command();
        for (words, name) in [("snapshot copy a b", "copy"), ("purge a --scan", "purge")] {
            let words = std::iter::once("scalingnote").chain(words.split(' '));
            let arguments = program.try_get_matches_from_mut(words).unwrap();
            assert_eq!(asked(&program, &arguments).get_name(), name);
        }
    }

    #[test]
    fn what_the_system_said_gets_its_hint_once() {
        let io = || std::io::Error::from_raw_os_error(libc::EMFILE);
        let error = Error::input("starting").with_source(Error::input("threads").with_source(io()));
        assert!(system_hint(&error).unwrap().contains("ulimit -n"));
        assert!(system_hint(&Error::io(io(), "cannot read x")).is_none(), "said already");
    }

    #[test]
    fn causes_do_not_repeat_what_is_said() {
        let io = std::io::Error::other("no space left");
        let inner = Error::input("writing part 3: no space left").with_source(io);
        assert!(causes(&inner).is_empty());
        let outer = Error::input("encoding").with_source(inner);
        assert_eq!(causes(&outer), ["writing part 3: no space left"]);
    }
}
