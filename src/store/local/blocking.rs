//! File work beside the runtime's threads.

use tokio::task::JoinError;

/// Does `work` on a thread that may wait for a disk.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<JoinError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await?
}
