//! Leases of runs and readers, by the store's clock: who waits, who takes over, and what gc leaves alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::error::{Error, ErrorKind, Result};
use scalingnote::exec::{self, RunContext, RunOptions};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::snapshot::{
    self, CommitOutcome, GcReport, Protected, ReaderLease, Retention, RunLease, Taken, commit,
    newest, numbers,
};
use scalingnote::store::{Root, layout};

use crate::fixture::days::{Corpus, context};
use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::skewed::Skewed;
use crate::fixture::support::tiny;
use crate::fixture::support::{provenance, publish};

/// Keeps nothing that it need not keep.
const STRICT: Retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };

async fn gc(root: &Root, retention: &Retention) -> Result<GcReport> {
    let now = root.now().await?;
    snapshot::gc(root, retention, now, false, &Protected::default()).await
}

/// A run beside the test.
fn spawn(ctx: RunContext, options: RunOptions) -> tokio::task::JoinHandle<Result<RunReport>> {
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || handle.block_on(exec::run(&ctx, &options)))
}

/// A run that has encoded and then stands still before it builds, until it is let go.
struct Standing {
    run: tokio::task::JoinHandle<Result<RunReport>>,
    store: Faulty,
}

impl Standing {
    async fn start(corpus: &Corpus, inner: Arc<dyn ObjectStore>) -> Self {
        corpus.write(|_| false.into());
        let store = Faulty::new(inner, |operation, path| {
            (operation == "put" && path.contains("calibration")).then_some(Fault::Hold)
        });
        let ctx = context(corpus.pipeline(&[]), &store.clone().root());
        let run = spawn(ctx, RunOptions::default());
        while !store.is_holding() {
            assert!(!run.is_finished(), "the run ended early");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { run, store }
    }

    async fn let_go(self) -> Result<RunReport> {
        self.store.let_go();
        self.run.await.unwrap()
    }
}

fn in_memory() -> (Arc<dyn ObjectStore>, Root) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    (Arc::clone(&store), Root::from_store(store, "memory://leases", None))
}

async fn lease_of_a_run(root: &Root) -> snapshot::Holder {
    let key = layout::run_lease(1);
    serde_json::from_slice(&root.get(&key).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_is_told_at_once_who_is_at_work_or_waits() {
    let (store, root) = in_memory();
    let corpus = Corpus::new(40);
    let first = Standing::start(&corpus, store).await;
    let holder = lease_of_a_run(&root).await;

    let busy = corpus.run(&root, &[]).await.unwrap_err();
    assert_eq!((busy.kind(), busy.kind().exit_code()), (ErrorKind::Busy, 75));
    let text = busy.to_string();
    for part in [&holder.run, &holder.host, &holder.taken_at] {
        assert!(!part.is_empty() && text.contains(part.as_str()), "{text}");
    }
    let runs: BTreeSet<String> = root
        .list("runs")
        .await
        .unwrap()
        .iter()
        .filter_map(|object| object.key.split('/').nth(1).map(str::to_owned))
        .collect();
    assert_eq!(runs, BTreeSet::from([holder.run]), "a refused run leaves nothing");

    // Schedulers' own steps are not held up.
    let ctx = context(corpus.pipeline(&[]), &root);
    let planned = exec::run(&ctx, &RunOptions { only_plan: true, ..RunOptions::default() }).await;
    assert_eq!(planned.unwrap().outcome, Outcome::Planned);

    let waiting = RunOptions { wait: Duration::from_secs(600), ..RunOptions::default() };
    let waiting = spawn(ctx, waiting);
    let done = first.let_go().await.unwrap();
    assert_eq!(done.outcome, Outcome::Published { snapshot: 1 });
    let waited = waiting.await.unwrap().unwrap();
    assert_eq!(waited.outcome, Outcome::NothingToDo { snapshot: Some(1) });
    assert!(root.list(layout::LEASES).await.unwrap().is_empty(), "all leases are released");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_four_runs_at_once_one_works_and_three_are_told() {
    let root = Root::in_memory();
    let corpus = Corpus::new(80);
    corpus.write(|_| false.into());
    let runs = (0..4).map(|_| {
        let ctx = context(corpus.pipeline(&[]), &root);
        async move { exec::run(&ctx, &RunOptions::default()).await }
    });
    let mut published = 0;
    for outcome in futures::future::join_all(runs).await {
        match outcome {
            Ok(report) => {
                published += u32::from(report.outcome == Outcome::Published { snapshot: 1 })
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
        }
    }
    assert_eq!(published, 1);
    assert_eq!(numbers(&root).await.unwrap(), [1]);
    assert!(root.list(layout::LEASES).await.unwrap().is_empty());
}

/// A lease that another machine wrote.
async fn foreign_lease(root: &Root) {
    let holder = serde_json::json!({
        "kind": "run", "run": "20260101T000000Z-0badcafe", "host": "elsewhere", "process": 1,
        // That machine's clock is wrong, and so may be this one's.
        "taken_at": "1999-01-01T00:00:00Z",
    });
    root.put(&layout::run_lease(7), holder.to_string().into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_by_the_stores_clock_whatever_the_machines_say() {
    for days in [-400, 0, 400] {
        let store = Skewed::new(TimeDelta::days(days));
        let root = store.root();
        let corpus = Corpus::new(30);
        foreign_lease(&root).await;
        let busy = corpus.run(&root, &[]).await.unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{days} days: {busy}");
        assert!(busy.to_string().contains("elsewhere"), "{busy}");
        store.pass(TimeDelta::minutes(4));
        assert_eq!(corpus.run(&root, &[]).await.unwrap_err().kind(), ErrorKind::Busy);
        // A heartbeat is a sign of life, however old the lease is.
        let beat = layout::beat("20260101T000000Z-0badcafe", 3);
        root.put(&beat, "{}".into()).await.unwrap();
        store.pass(TimeDelta::minutes(4));
        assert_eq!(corpus.run(&root, &[]).await.unwrap_err().kind(), ErrorKind::Busy);
        store.pass(TimeDelta::minutes(2));
        let report = corpus.run(&root, &[]).await.unwrap();
        assert_eq!(report.outcome, Outcome::Published { snapshot: 1 }, "{days} days");
        let left = root.list(layout::LEASES).await.unwrap();
        assert!(!left.iter().any(|lease| lease.key.contains("run-")), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_stood_still_finds_out_and_publishes_nothing() {
    let store = Skewed::new(TimeDelta::zero());
    let root = store.root();
    let corpus = Corpus::new(40);
    let asleep = Standing::start(&corpus, Arc::new(store.clone())).await;
    store.pass(TimeDelta::minutes(6));
    let report = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(report.outcome, Outcome::Published { snapshot: 1 });
    foreign_lease(&root).await;
    let late = asleep.let_go().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict, "{late}");
    assert!(late.to_string().contains("took over"), "{late}");
    assert_eq!(numbers(&root).await.unwrap(), [1]);
    assert!(root.size(&layout::run_lease(7)).await.unwrap().is_some(), "another's lease stays");
}

#[tokio::test]
async fn a_heartbeat_keeps_a_lease_and_tells_when_it_is_lost() {
    const RUNS: [&str; 3] =
        ["20260101T000000Z-00000001", "20260101T000000Z-00000002", "20260101T000000Z-00000003"];
    let store = Skewed::new(TimeDelta::zero());
    let root = store.root();
    let take = |run: &'static str| {
        let root = root.clone();
        async move { RunLease::take(&root, run).await.unwrap() }
    };
    let Taken::Ours(first) = take(RUNS[0]).await else { panic!("nobody is there") };
    for _ in 0..5 {
        store.pass(TimeDelta::minutes(4));
        first.beat().await.unwrap();
        assert!(matches!(take(RUNS[1]).await, Taken::Busy(holder) if holder.run == RUNS[0]));
    }
    assert_eq!(root.list(layout::LEASES).await.unwrap().len(), 2, "one lease, one heartbeat");
    store.pass(TimeDelta::minutes(6));
    let Taken::Ours(second) = take(RUNS[1]).await else { panic!("the first is dead") };
    for lost in [first.beat().await, first.check().await] {
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::Conflict);
    }
    first.release().await;
    second.check().await.unwrap();
    second.release().await;
    let Taken::Ours(third) = take(RUNS[2]).await else { panic!("all are released") };
    // A lease that somebody removed by hand is lost too.
    root.delete(&layout::run_lease(1)).await.unwrap();
    assert_eq!(third.check().await.unwrap_err().kind(), ErrorKind::Conflict);
}

/// The lease is as good as the store: whatever is lost on the way, at most one run has it.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_one_run_has_the_lease_on_a_store_that_fails() {
    let mut held = 0;
    for seed in 0..60 {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let attempts = (0..4u64).map(|who| {
            let store = Faulty::random(Arc::clone(&inner), 0.15, seed * 10 + who, Arc::default());
            tokio::spawn(async move { RunLease::take(&store.root(), &format!("run {who}")).await })
        });
        let mut ours = Vec::new();
        for attempt in futures::future::join_all(attempts).await {
            match attempt.unwrap() {
                Ok(Taken::Ours(lease)) => ours.push(lease),
                Ok(Taken::Busy(_)) => {}
                Err(error) => assert!(error.is_retryable(), "seed {seed}: {error:?}"),
            }
        }
        let mut alive = 0;
        let root = Root::from_store(inner, "memory://", None);
        for lease in &ours {
            alive += u32::from(RunLease::check(lease).await.is_ok());
        }
        assert!(alive <= 1, "seed {seed}: {alive} runs hold the lease");
        held += alive;
        drop(ours);
        // Nobody of this process holds it any more: the next one does not wait.
        let next = RunLease::take(&root, "next").await.unwrap();
        assert!(matches!(next, Taken::Ours(_)), "seed {seed}: {next:?}");
    }
    assert!(held > 20, "mostly somebody gets it: {held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gc_beside_a_run_leaves_what_the_run_may_use() {
    let store = Skewed::new(TimeDelta::days(-3));
    let root = store.root();
    let mut corpus = Corpus::new(40);
    corpus.run(&root, &[]).await.unwrap();
    // What nothing names any more, and what the next run takes up again.
    let old = corpus.notes.clone();
    for (body, _) in corpus.notes.values_mut() {
        *body = format!("other {body}");
    }
    corpus.run(&root, &[]).await.unwrap();
    corpus.notes = old;
    for id in 0..5 {
        corpus.notes.insert(2_000 + id, (format!("new text {id}"), 0));
    }
    let calibration = |object: &&scalingnote::store::Listed| object.key.contains("calibration-");
    for object in root.list("indexes").await.unwrap().iter().filter(calibration) {
        // So that the run stands still at it again.
        root.delete(&object.key).await.unwrap();
    }
    let running = Standing::start(&corpus, Arc::new(store.clone())).await;
    let report = gc(&root, &STRICT).await.unwrap();
    let reusable = |key: &String| key.starts_with("embeddings/") || key.starts_with("indexes/");
    assert!(!report.deleted.iter().any(reusable), "{:?}", report.deleted);
    assert!(report.held_back > 0, "the first day's files are not named");
    let done = running.let_go().await.unwrap();
    assert_eq!(done.outcome, Outcome::Published { snapshot: 3 });
    let after = gc(&root, &STRICT).await.unwrap();
    assert!(after.deleted.iter().any(reusable), "now they go: {after:?}");
    let newest = newest(&root).await.unwrap().unwrap();
    assert!(snapshot::verify_hashes(&root, &newest, &|_| {}).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_reader_keeps_its_snapshot_by_the_stores_clock() {
    for days in [-400, 400] {
        let store = Skewed::new(TimeDelta::days(days));
        let root = store.root();
        let first = publish(&root, None, tiny(&root, "one").await.unwrap(), "a").await;
        let mut reader = ReaderLease::take(&root, 1).await.unwrap();
        let second = publish(&root, Some(&first), tiny(&root, "two").await.unwrap(), "b").await;
        publish(&root, Some(&second), tiny(&root, "three").await.unwrap(), "c").await;
        // A day in which the reader renews: grace is over, its snapshot stays.
        for _ in 0..8 {
            store.pass(TimeDelta::minutes(14));
            reader.renew().await.unwrap();
        }
        assert_eq!(gc(&root, &STRICT).await.unwrap().kept_snapshots, [1, 3], "{days} days");
        let problems = snapshot::verify_hashes(&root, &first, &|_| {}).await.unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let leases = root.list(layout::LEASES).await.unwrap();
        assert_eq!(leases.len(), 1, "a renewal replaces the one before: {leases:?}");
        // A reader that died: its lease goes stale.
        store.pass(TimeDelta::minutes(16));
        assert_eq!(gc(&root, &STRICT).await.unwrap().kept_snapshots, [3]);
        assert_eq!(reader.renew().await.unwrap_err().kind(), ErrorKind::NotFound);
        let gone = ReaderLease::take(&root, 1).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        let newest = ReaderLease::take(&root, 3).await.unwrap();
        assert_eq!(newest.snapshot(), 3);
        newest.release().await;
    }
}

/// Reads every file of the newest snapshot under a lease, slowly; `None` where a gc was first.
async fn read_under_lease(root: &Root, random: &mut StdRng) -> Option<Result<()>> {
    let newest = newest(root).await.unwrap()?;
    let mut lease = match ReaderLease::take(root, newest.number).await {
        Ok(lease) => lease,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(error)),
    };
    let read = async {
        snapshot::read(root, newest.number).await?;
        for file in newest.content.files() {
            for _ in 0..random.random_range(0..20) {
                tokio::task::yield_now().await;
            }
            if random.random_bool(0.2) {
                lease.renew().await?;
            }
            if root.hash(&file.path).await?.0 != file.sha256 {
                return Err(Error::corrupt(file.path.clone()));
            }
        }
        Ok(())
    };
    let outcome = read.await;
    lease.release().await;
    Some(outcome)
}

/// Publishers, readers and collectors at once, on many threads; the collectors keep nothing they need not keep.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gc_beside_publishes_and_readers_deletes_nothing_that_is_named() {
    let root = Skewed::new(TimeDelta::days(-30)).root();
    let done = Arc::new(AtomicBool::new(false));
    let (reads, missed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..4u64)
        .map(|seed| {
            let (root, done) = (root.clone(), Arc::clone(&done));
            let (reads, missed) = (Arc::clone(&reads), Arc::clone(&missed));
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                while !done.load(Ordering::Acquire) {
                    match read_under_lease(&root, &mut random).await {
                        Some(outcome) => {
                            outcome.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        None => drop(missed.fetch_add(1, Ordering::Relaxed)),
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let collectors: Vec<_> = (0..2)
        .map(|_| {
            let (root, done) = (root.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut deleted = 0;
                while !done.load(Ordering::Acquire) {
                    match gc(&root, &STRICT).await {
                        Ok(report) => deleted += report.deleted.len(),
                        // The other collector was quicker.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        Err(error) => panic!("{error:?}"),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                deleted
            })
        })
        .collect();
    for day in 0..60u64 {
        // Every content comes back: its object may be there from an earlier day, long unreferenced.
        loop {
            let parent = newest(&root).await.unwrap();
            let content = tiny(&root, &format!("content {}", day % 5)).await.unwrap();
            match commit(&root, parent.as_ref(), content, vec![], provenance("p")).await {
                Ok(CommitOutcome::Committed(_)) => break,
                Err(error) if error.kind() == ErrorKind::Transient => {}
                other => panic!("{other:?}"),
            }
        }
        let current = newest(&root).await.unwrap().unwrap();
        let problems = snapshot::verify_hashes(&root, &current, &|_| {}).await.unwrap();
        assert!(problems.is_empty(), "day {day}: {problems:?}");
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.await.unwrap();
    }
    let mut deleted = 0;
    for collector in collectors {
        deleted += collector.await.unwrap();
    }
    let (reads, missed) = (reads.load(Ordering::Relaxed), missed.load(Ordering::Relaxed));
    println!(
        "60 publishes, {reads} reads under a lease, {missed} came too late, {deleted} deleted"
    );
    assert!(reads > 20 && deleted > 10, "{reads} reads, {deleted} deleted");
}
