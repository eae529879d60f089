//! The same work on several things, some of them at a time.

use tokio::task::JoinSet;

/// What `work` makes of each item, in the order of the items; at most this many are worked on at a time, each on a
/// thread of the runtime that is free. The first error stops the others, and so does dropping the future.
///
/// # Errors
/// The first one of the work.
///
/// # Panics
/// Where the work does.
pub(crate) async fn in_parallel<I, T, E, F>(
    items: impl IntoIterator<Item = I>,
    most: usize,
    work: impl Fn(I) -> F,
) -> Result<Vec<T>, E>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done: Vec<Option<T>> = Vec::new();
    let mut items = items.into_iter();
    loop {
        while running.len() < most.max(1) {
            let Some(item) = items.next() else { break };
            let (at, work) = (done.len(), work(item));
            done.push(None);
            running.spawn(async move { (at, work.await) });
        }
        match running.join_next().await {
            None => return Ok(done.into_iter().flatten().collect()),
            Some(Ok((at, made))) => done[at] = Some(made?),
            Some(Err(ended)) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // Nobody but a runtime that ends stops a task, and that drops this future, too.
            Some(Err(_)) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn results_are_in_order_and_few_work_at_a_time() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let made = in_parallel(0..20_u64, 3, |at| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20 - at)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, ()>(at * at)
            }
        });
        let expected: Vec<u64> = (0..20).map(|at| at * at).collect();
        assert_eq!(made.await, Ok(expected));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn an_error_stops_the_others() {
        let ended = Arc::new(AtomicUsize::new(0));
        let failed = in_parallel(0..8, 4, |at| {
            let ended = Arc::clone(&ended);
            async move {
                if at == 1 {
                    return Err("one");
                }
                tokio::time::sleep(Duration::from_secs(3600)).await;
                ended.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        assert_eq!(failed.await, Err("one"));
        assert_eq!(ended.load(Ordering::SeqCst), 0);
    }
}
