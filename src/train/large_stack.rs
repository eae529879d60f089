//! The thread that trains.

use super::tensors::STACK;
use crate::error::{ErrorKind, Result, ResultExt};

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
        .or_error(ErrorKind::Resource, || "starting the thread that trains")?;
    receiver.await.or_error(ErrorKind::Internal, || "the thread that trains ended early")?
}
