//! A border around other people's parsers: some of them panic on a damaged file.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use super::{Error, ErrorKind, Result};

/// Runs `work`, which reads what `what` names; a panic of it becomes an error of `kind` that names it.
///
/// What the panic said is left out: such words may quote the file.
///
/// # Errors
/// Those of `work`; `kind` where it panicked.
pub fn shielded<T>(
    kind: ErrorKind,
    what: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    // Nothing that `work` changes is looked at after a panic.
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(broken(kind, what())))
}

/// [`shielded`] for a future.
///
/// # Errors
/// Those of `work`; `kind` where it panicked.
pub async fn shielded_async<T>(
    kind: ErrorKind,
    what: impl FnOnce() -> String,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(broken(kind, what())))
}

/// The error for a file whose reader panicked.
pub fn broken(kind: ErrorKind, what: String) -> Error {
    Error::new(kind, format!("{what} is damaged so badly that its reader crashed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_names_the_file_and_not_the_words() {
        let what = || "part a.parquet".to_owned();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let sync = shielded::<()>(ErrorKind::Corrupt, what, || panic!("secret"));
        let later = shielded_async::<()>(ErrorKind::Input, what, async { panic!("secret") }).await;
        std::panic::set_hook(hook);
        for (error, kind) in [(sync, ErrorKind::Corrupt), (later, ErrorKind::Input)] {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), kind);
            let shown = format!("{error:?}");
            assert!(shown.contains("a.parquet") && !shown.contains("secret"), "{shown}");
        }
        assert_eq!(shielded(ErrorKind::Corrupt, what, || Ok(3)).unwrap(), 3);
    }
}
