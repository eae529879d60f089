//! Ctrl-C and SIGTERM: the first asks the run to stop cleanly, the second stops at once.

use std::sync::Arc;

use super::terminal::{Console, Level};
use crate::error::{ErrorKind, Result, no_thread};
use crate::types::Cancel;

/// Listens on a thread of its own, so that busy workers cannot starve it.
///
/// With a message the first signal prints it and cancels, the second exits with 130; without, the first signal
/// exits.
pub(super) fn install(
    cancel: Cancel,
    stopping: Option<&'static str>,
    console: Arc<Console>,
) -> Result<()> {
    let listener = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async move {
            let mut stopping = stopping;
            while wait().await {
                let Some(message) = stopping.take() else {
                    console.close();
                    std::process::exit(i32::from(ErrorKind::Cancelled.exit_code()));
                };
                console.line(Level::Note, message);
                cancel.cancel();
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listener)
        .map(drop)
        .map_err(|cause| no_thread("starting the thread that waits for Ctrl-C", cause))
}

/// Waits for one signal; false where the system gives none.
#[cfg(unix)]
async fn wait() -> bool {
    use std::cell::RefCell;
    use tokio::signal::unix::{Signal, SignalKind, signal};
    thread_local! {
        // Kept between calls: a signal that comes while the first is handled must not be lost.
        static LISTENERS: RefCell<Option<(Signal, Signal)>> = const { RefCell::new(None) };
    }
    let taken = LISTENERS.with(RefCell::take);
    let listeners = taken.or_else(|| {
        Some((signal(SignalKind::interrupt()).ok()?, signal(SignalKind::terminate()).ok()?))
    });
    let Some((mut interrupt, mut terminate)) = listeners else { return false };
    let came = tokio::select! {
        came = interrupt.recv() => came.is_some(),
        came = terminate.recv() => came.is_some(),
    };
    LISTENERS.with(|kept| kept.replace(Some((interrupt, terminate))));
    came
}

#[cfg(not(unix))]
async fn wait() -> bool {
    tokio::signal::ctrl_c().await.is_ok()
}
