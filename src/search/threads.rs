//! Threads of one request.
//!
//! Rayon's are shared by all requests, and do what they have begun: a slow condition of one client on every thread would
//! keep the searches of all others waiting. Between threads of its own the system shares the processors fairly.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Result, no_thread};

/// Threads that one request may have.
const THREADS: usize = 8;
/// Conditions that are chains call themselves for every operator.
const STACK: usize = 8 << 20;

/// What `work` gives for each item, in their order; the first error ends it.
pub(super) fn on_own_threads<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(THREADS).min(items.len());
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return Ok(()) };
            match work(item) {
                Ok(value) => {
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, value));
                }
                Err(error) => {
                    next.store(items.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let mut running = Vec::with_capacity(threads);
        for _ in 0..threads {
            let thread = std::thread::Builder::new().name("filter".to_owned()).stack_size(STACK);
            match thread.spawn_scoped(scope, run) {
                Ok(thread) => running.push(thread),
                // Fewer do it, too.
                Err(_) if !running.is_empty() => break,
                Err(cause) => {
                    return Err(no_thread("the system gives no thread to filter on", cause));
                }
            }
        }
        running.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|words| std::panic::resume_unwind(words))
        })
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, value)| value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        let items: Vec<u64> = (0..1_000).collect();
        let doubled = on_own_threads(&items, |item| Ok(item * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        let begun = AtomicUsize::new(0);
        let failed = on_own_threads(&items, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(1));
            if *item == 3 { Err(Error::input("three")) } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err().message(), "three");
        assert!(begun.into_inner() < items.len());
        assert!(on_own_threads(&[], |_: &u64| Ok(())).unwrap().is_empty());
    }
}
