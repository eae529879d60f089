//! No step of a run keeps a runtime's thread for long: heartbeats of leases, signals and other requests are served by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scalingnote::exec::{self, RunOptions};
use scalingnote::store::Root;

use crate::fixture::days::{Corpus, context};
use crate::fixture::pipeline::PipelineFile;

/// The largest share of a run's processor time that one turn may take. Waiting for a core does not count, so neither other tests
/// nor a slow machine make a difference.
const LONGEST: f64 = 0.03;

fn processor_time(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the type that is asked for.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs `work` on a runtime with one worker, beside a task that wakes every millisecond. Returns the most processor time the
/// worker spent between two of its wake-ups, as a share of the process's.
fn longest_turn(work: impl Future<Output = ()> + Send + 'static) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let began = processor_time(libc::CLOCK_PROCESS_CPUTIME_ID);
    let ended = Arc::clone(&over);
    let longest = runtime.block_on(async {
        let beating = tokio::spawn(async move {
            let turn =
                || (std::thread::current().id(), processor_time(libc::CLOCK_THREAD_CPUTIME_ID));
            let (mut longest, mut last) = (Duration::ZERO, turn());
            while !ended.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let now = turn();
                // The worker moved to another thread, so nothing blocked it.
                if now.0 == last.0 {
                    longest = longest.max(now.1 - last.1);
                }
                last = now;
            }
            longest
        });
        tokio::spawn(work).await.unwrap();
        over.store(true, Ordering::Release);
        beating.await.unwrap()
    });
    let all = processor_time(libc::CLOCK_PROCESS_CPUTIME_ID) - began;
    println!("{longest:?} of {all:?}");
    longest.as_secs_f64() / all.as_secs_f64()
}

#[test]
fn no_step_keeps_the_thread_of_the_runtime() {
    let file = PipelineFile {
        columns: "body, likes, deleted",
        corpus: "stored_columns = [\"likes\"]\n",
        tower: "max_tokens = 32\n",
        // A graph that costs little: what is looked at is all the rest.
        sections: "[index]\nshards = 1\nexpansion_add = 8\nconnectivity = 5\n[gates]\nrecall_min = 0.01\n",
        ..PipelineFile::default()
    };
    let mut corpus = Corpus::with(file.text(), 30_000, |id| id);
    let root = corpus.folder.path().join("root");
    for day in 1..=2 {
        corpus.write(|_| false.into());
        let root = Root::open(root.to_str().unwrap()).unwrap();
        let ctx = context(corpus.pipeline(&[]), &root);
        let longest = longest_turn(async move {
            Box::pin(exec::run(&ctx, &RunOptions::default())).await.unwrap();
        });
        assert!(longest < LONGEST, "day {day}: one turn took {longest:.3} of the run");
        for (_, (body, _)) in corpus.notes.iter_mut().step_by(100) {
            body.push_str(" again");
        }
    }
}
