//! Seeded faults over whole days: no fault is ever visible to a reader, and the days end as without faults.
//!
//! `make test-faults` runs thousands of these schedules; a failure names the seed, and `SCALINGNOTE_FAULT_SEED` with
//! `SCALINGNOTE_FAULT_SCHEDULES=1` runs that one again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::error::Result;
use scalingnote::report::{Outcome, RunReport};
use scalingnote::snapshot::{self, Manifest};
use scalingnote::store::{DurableLocal, Root};

use crate::fixture::days::{Corpus, seen};
use crate::fixture::faults::{Faulty, Tally};
use crate::fixture::support::env_number;

/// What the schedules of one test share.
struct Setting {
    /// What is set in the pipeline.
    set: Vec<String>,
    notes: i64,
    days: u32,
    /// Whether the same texts in other batches make the same bytes.
    exact: bool,
    tally: Tally,
    runs: AtomicU64,
    stopped: AtomicU64,
}

/// A root, and what a run on it must not change any more.
struct Watched {
    root: Root,
    cache: tempfile::TempDir,
    published: BTreeMap<u64, Manifest>,
}

impl Watched {
    fn new(root: Root) -> Self {
        Self { root, cache: tempfile::tempdir().unwrap(), published: BTreeMap::new() }
    }

    /// Every snapshot ever published is there as it was, byte for byte; returns what a reader of the newest sees.
    async fn check(&mut self, at: &str) -> Option<View> {
        let newest = snapshot::newest(&self.root).await.unwrap()?;
        self.published.entry(newest.number).or_insert_with(|| newest.clone());
        for (number, manifest) in &self.published {
            let now = snapshot::read(&self.root, *number).await.unwrap();
            assert_eq!(now, *manifest, "{at}: snapshot {number} changed");
            let problems = snapshot::verify_hashes(&self.root, manifest, &|_| {}).await.unwrap();
            assert!(problems.is_empty(), "{at}: snapshot {number}: {problems:?}");
        }
        Some(View(seen(&self.root, &newest, self.cache.path()).await))
    }
}

/// What a reader sees.
#[derive(Debug, Clone, PartialEq)]
struct View(BTreeMap<String, String>);

impl View {
    /// Equal; where bytes depend on how texts were batched, equal but for the last digits of scores.
    fn is(&self, other: &Self, exact: bool) -> bool {
        if exact {
            return self == other;
        }
        let files = |key: &str| key.starts_with("index ") || key.starts_with("sidecar ");
        let notes = |view: &Self| -> BTreeMap<String, (f64, String)> {
            let rows = view.0.iter().filter(|(key, _)| !files(key));
            let split = |key: &str, text: &String| {
                // Which keys were removed from a segment does not depend on how texts were batched.
                if key.starts_with("removed ") {
                    return (0.0, text.clone());
                }
                let (score, stored) = text.split_once(' ').expect("score and columns");
                (score.parse().expect("a score"), stored.to_owned())
            };
            rows.map(|(key, text)| (key.clone(), split(key, text))).collect()
        };
        let (ours, theirs) = (notes(self), notes(other));
        ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|((a, (x, stored)), (b, (y, other)))| {
                a == b && stored == other && (x - y).abs() < 1e-3
            })
    }
}

/// Some days; every call of the store may fail, and the run is repeated until it gets through. After every attempt
/// the newest snapshot must be whole and be what a run without faults has published by that day or the day before.
async fn schedule(setting: &Setting, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    // Every fourth on local disk, through the store that real runs use there.
    let on_disk = seed % 4 == 3;
    let (store, clear): (Arc<dyn ObjectStore>, Root) = if on_disk {
        let store: Arc<dyn ObjectStore> = Arc::new(DurableLocal::open(folder.path()).unwrap());
        (Arc::clone(&store), Root::open(folder.path().to_str().unwrap()).unwrap())
    } else {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        (Arc::clone(&store), Root::from_store(store, "memory://days", None))
    };
    let (mut watched, mut reference) = (Watched::new(clear), Watched::new(Root::in_memory()));
    let mut corpus = Corpus::new(setting.notes);
    let set: Vec<&str> = setting.set.iter().map(String::as_str).collect();
    let mut yesterday = None;
    let mut attempts = 0u32;
    for day in 0..setting.days {
        corpus.live_a_day(&mut random);
        corpus.run(&reference.root, &set).await.unwrap();
        let today = reference.check("the run without faults").await;
        loop {
            attempts += 1;
            // Ever fewer faults, so that every schedule ends.
            let share = 0.04 / f64::from(1 + attempts / 8);
            let (store, tally) = (Arc::clone(&store), Arc::clone(&setting.tally));
            let faulty = Faulty::random(store, share, random.random(), tally);
            let faulty = if on_disk { faulty.on_disk(folder.path()) } else { faulty };
            let outcome = corpus.run(&faulty.root(), &set).await;
            let at = format!("seed {seed}, day {day}, attempt {attempts}");
            let now = watched.check(&at).await;
            let same = |expected: &Option<View>| match (&now, expected) {
                (Some(now), Some(expected)) => now.is(expected, setting.exact),
                (None, None) => true,
                _ => false,
            };
            assert!(same(&today) || same(&yesterday), "{at}: a reader sees {now:?}");
            setting.runs.fetch_add(1, Ordering::Relaxed);
            if ended(outcome, &at) {
                assert!(same(&today), "{at}: a reader sees {now:?}, not {today:?}");
                break;
            }
            setting.stopped.fetch_add(1, Ordering::Relaxed);
        }
        yesterday = today;
    }
}

/// False where the run must be repeated, which is all that a fault may lead to.
fn ended(outcome: Result<RunReport>, at: &str) -> bool {
    match outcome {
        Ok(report) => {
            let refused = report.outcome == Outcome::GateRefused;
            assert!(!refused, "{at}: {:?}", report.gates);
            true
        }
        Err(error) => {
            assert!(error.is_retryable(), "{at}: {error:?}");
            false
        }
    }
}

/// Runs the schedules on as many threads as there are cores and prints what was injected.
fn run_schedules(setting: &Setting, first: u64, count: u64) {
    let next = Mutex::new(first..first + count);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .unwrap();
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { break };
                    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        runtime.block_on(schedule(setting, seed));
                    }));
                    if let Err(failed) = failed {
                        println!("seed {seed} failed; SCALINGNOTE_FAULT_SEED={seed} repeats it");
                        std::panic::resume_unwind(failed);
                    }
                    if (seed + 1 - first).is_multiple_of(100) {
                        println!("{} of {count} schedules begun", seed + 1 - first);
                    }
                }
            });
        }
    });
    let tally = setting.tally.lock().unwrap();
    for ((operation, fault), times) in tally.iter() {
        println!("{times:>8} x {operation} {fault:?}");
    }
    println!(
        "{count} schedules of {} days from seed {first}: {} runs, {} stopped by a fault, {} faults injected, \
         0 visible to a reader",
        setting.days,
        setting.runs.load(Ordering::Relaxed),
        setting.stopped.load(Ordering::Relaxed),
        tally.values().sum::<u64>(),
    );
    assert!(setting.stopped.load(Ordering::Relaxed) > 0, "the faults must have bitten");
}

/// `SCALINGNOTE_FAULT_SCHEDULES` seeded schedules (20 unless set) from `SCALINGNOTE_FAULT_SEED` (0 unless set).
#[test]
fn random_faults_are_never_visible() {
    let setting = Setting {
        set: Vec::new(),
        notes: 40,
        days: 3,
        exact: true,
        tally: Tally::default(),
        runs: AtomicU64::new(0),
        stopped: AtomicU64::new(0),
    };
    let first = env_number("SCALINGNOTE_FAULT_SEED", 0);
    run_schedules(&setting, first, env_number("SCALINGNOTE_FAULT_SCHEDULES", 20));
}

/// The same with the document tower that `SCALINGNOTE_FAULT_MODEL` names, `SCALINGNOTE_FAULT_MODEL_SCHEDULES` (24) times.
#[test]
fn random_faults_are_never_visible_with_a_real_tower() {
    let Some(model) = std::env::var_os("SCALINGNOTE_FAULT_MODEL") else {
        println!("skipped: SCALINGNOTE_FAULT_MODEL names no model (`make test-faults` sets it)");
        return;
    };
    let model = Path::new(&model).canonicalize().expect("SCALINGNOTE_FAULT_MODEL exists");
    let setting = Setting {
        set: vec![
            format!("tower.model={:?}", model.to_str().expect("a UTF-8 path")),
            // The longest part of a short run, and the same every time.
            "encode.self_test=false".to_owned(),
        ],
        notes: 24,
        days: 2,
        exact: false,
        tally: Tally::default(),
        runs: AtomicU64::new(0),
        stopped: AtomicU64::new(0),
    };
    let first = env_number("SCALINGNOTE_FAULT_SEED", 0);
    run_schedules(&setting, first, env_number("SCALINGNOTE_FAULT_MODEL_SCHEDULES", 24));
}
