//! The thread that trains.

use super::tensors::STACK;
use crate::error::{ErrorKind, Result, ResultExt, no_thread};

/// Runs `work` on a thread of its own with a large stack; the computation's threads are the global pool's.
pub async fn on_large_stack<T, W>(work: W) -> Result<T>
where
    T: Send + 'static,
    W: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("train".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            // Nobody listens any more only where the program is ending.
            let _ = sender.send(runtime.block_on(work()));
        })
        .map_err(|cause| no_thread("starting the thread that trains", cause))?;
    receiver.await.or_error(ErrorKind::Internal, || "the thread that trains ended early")?
}
