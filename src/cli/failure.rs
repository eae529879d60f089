//! How a failure is told: `error:`, `caused by:`, a hint, and the exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use super::console::{Console, Level};
use crate::error::{Error, ErrorKind};

/// Runs the program so that a panic ends as a clear internal error with exit code 1, without a
/// backtrace.
pub(super) fn guarded(program: impl FnOnce() -> ExitCode) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        use std::io::Write;
        let message = info
            .payload()
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| info.payload().downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
        // `eprintln!` would panic again where stderr is closed.
        let _ = writeln!(
            std::io::stderr(),
            "error: internal error{place}: {message}\nhint: {}",
            hint(ErrorKind::Internal).unwrap_or_default()
        );
    }));
    catch_unwind(AssertUnwindSafe(program)).unwrap_or_else(|_| ExitCode::from(1))
}

/// Prints an error and returns its exit code.
pub(super) fn report(error: &Error, console: &Console) -> ExitCode {
    let code = error.kind().exit_code();
    let causes = causes(error);
    if console.json_log {
        let line = serde_json::json!({
            "timestamp": super::progress::now(),
            "level": "ERROR",
            "message": error.to_string(),
            "kind": format!("{:?}", error.kind()),
            "caused_by": causes,
            "hint": hint(error.kind()),
            "exit_code": code,
        });
        console.raw(format!("{line}\n").as_bytes());
        return ExitCode::from(code);
    }
    console.line(Level::Error, &error.to_string());
    for cause in &causes {
        console.line(Level::Plain, &format!("  caused by: {cause}"));
    }
    if let Some(hint) = hint(error.kind()) {
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
        let text = cause.to_string().trim().replace('\n', "\n    ");
        if !text.is_empty() && !above.contains(&text) {
            above.clone_from(&text);
            causes.push(text);
        }
        source = cause.source();
    }
    causes
}

/// What a person can do about this kind of failure.
fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Config => Some(
            "`scalingnote schema pipeline` lists every key of a pipeline file, `scalingnote schema train` of a recipe",
        ),
        ErrorKind::Usage => Some("`--help` after the subcommand shows its flags with examples"),
        ErrorKind::GateRefused => Some(
            "nothing was published; mend the cause, or publish anyway with --override GATE --reason \"why\"",
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
    fn causes_do_not_repeat_what_is_said() {
        let io = std::io::Error::other("no space left");
        let inner = Error::input("writing part 3: no space left").with_source(io);
        assert!(causes(&inner).is_empty());
        let outer = Error::input("encoding").with_source(inner);
        assert_eq!(causes(&outer), ["writing part 3: no space left"]);
    }
}
