//! Shards that are looked at side by side.

use crate::error::{Result, ResultExt};
use crate::types::in_parallel;

/// Shards whose rows are in memory at the same time, at most.
const MOST: usize = 8;

/// What `work` makes of each item, in order: a core each.
// On threads of its own: what reads a shard is not a `Send` future.
pub(super) async fn on_cores<I, T, F>(
    items: Vec<I>,
    work: impl Fn(I) -> F + Clone + Send + 'static,
) -> Result<Vec<T>>
where
    I: Send + 'static,
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    in_parallel(items, cores.min(MOST), |item| {
        let (work, runtime) = (work.clone(), tokio::runtime::Handle::current());
        let working = tokio::task::spawn_blocking(move || runtime.block_on(work(item)));
        async move { working.await.context(|| "looking at a shard ended unexpectedly")? }
    })
    .await
}
