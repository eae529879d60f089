//! How a failure is reported: `error:`, `caused by:`, a hint, and the exit code.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

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
            hint_of(ErrorKind::Internal).unwrap_or_default()
        );
        ExitCode::from(1)
    })
}

/// Prints an error and returns its exit code.
pub(crate) fn report(error: &Error, console: &Console) -> ExitCode {
    let code = error.kind().exit_code();
    let hint = error.hint().or_else(|| system_hint(error)).or_else(|| hint_of(error.kind()));
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

/// What a person can do about what the operating system said, where no line above has it.
fn system_hint(error: &Error) -> Option<&'static str> {
    way_out_of(error).filter(|hint| !error.to_string().contains(hint))
}

/// What a person can do about this kind of failure, whatever it is about.
fn hint_of(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Usage => Some("`--help` after the subcommand shows its flags with examples"),
        ErrorKind::GateRefused => Some(
            "nothing was published; fix the cause, or publish anyway with --override GATE --reason \"why\"",
        ),
        ErrorKind::Transient => Some("run the same command again; what was finished is kept"),
        ErrorKind::Busy => Some(
            "`--wait 30m` waits for it to end; a run that was killed elsewhere is taken over after five minutes",
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

    #[test]
    fn a_panic_is_an_internal_error_with_exit_code_1() {
        let code = guarded(|| panic!("at the disco"));
        let _ = std::panic::take_hook();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
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
