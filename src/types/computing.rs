//! Long computations inside a future.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` on this thread after handing the thread's other tasks (lease heartbeats, signals, requests) to another one. On a
/// current-thread runtime, and outside of any runtime, it simply runs `work`.
pub(crate) fn computing<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn other_tasks_go_on() {
        let runtime = |workers| {
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).build().unwrap()
        };
        let (done, heard) = mpsc::channel();
        let seen = runtime(1).block_on(async {
            // On the one worker, which another task needs before this one can go on.
            let waiting = tokio::spawn(async move {
                let other = tokio::spawn(async move { done.send(7).unwrap() });
                let seen = computing(|| heard.recv_timeout(Duration::from_secs(60)));
                other.await.unwrap();
                seen
            });
            waiting.await.unwrap()
        });
        assert_eq!(seen, Ok(7));
    }

    #[test]
    fn it_works_anywhere() {
        assert_eq!(computing(|| 1), 1);
        let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(single.block_on(async { computing(|| 2) }), 2);
        let blocking = single.spawn_blocking(|| computing(|| 3));
        assert_eq!(single.block_on(blocking).unwrap(), 3);
    }
}
