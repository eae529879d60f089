//! `kill -9` of the real program: at every step border, and at random moments. The crash table of tests/README.md is
//! made here from the borders, so it cannot say what these tests do not see.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use scalingnote::snapshot;
use scalingnote::store::{Border, Root, border, hash_file, layout};

use crate::fixture::checkout::package;
use crate::fixture::days::{Corpus, newest_seen, pipeline, seen};
use crate::fixture::program::{encoded, program};
use crate::fixture::support::env_number;

const SIGKILL: i32 = 9;

/// What a reader sees; see [`seen`].
type View = BTreeMap<String, String>;

/// A corpus, a pipeline over it, and its root on disk.
struct Place {
    corpus: Corpus,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new(corpus: Corpus) -> Self {
        let text = pipeline().replace("memory://unused", "root").replace("= 16", "= 3");
        std::fs::write(corpus.folder.path().join("p.toml"), text).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        Self { corpus, runtime }
    }

    /// The same corpus and root in a folder of their own.
    fn copy(&self) -> Self {
        let mut corpus = Corpus::new(0);
        corpus.notes.clone_from(&self.corpus.notes);
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(self.corpus.folder.path().join("."))
            .arg(corpus.folder.path())
            .status();
        assert!(copied.unwrap().success());
        Self::new(corpus)
    }

    fn folder(&self) -> PathBuf {
        self.corpus.folder.path().join("root")
    }

    fn root(&self) -> Root {
        Root::open(self.folder().to_str().unwrap()).unwrap()
    }

    fn command(&self, line: &str) -> Command {
        self.corpus.write(|_| false.into());
        let mut command = program(self.corpus.folder.path());
        command.args(line.split_whitespace());
        command
    }

    /// A run that must get through: its report.
    fn run(&self, at: &str) -> Value {
        let output = self.command("run p.toml --json --quiet").output().unwrap();
        assert!(output.status.success(), "{at}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A command that is to die at a border.
    fn die_at(&self, line: &str, border: Border, nth: u32) -> Output {
        let fail_at = format!("{}:{nth}", border.name());
        self.command(line).env(border::FAIL_AT, fail_at).output().unwrap()
    }

    /// Number and view of the newest snapshot, every file of which must be as its manifest says.
    fn newest(&self, at: &str) -> Option<(u64, View)> {
        self.runtime.block_on(async {
            let cache = tempfile::tempdir().unwrap();
            let (newest, seen) = newest_seen(&self.root(), cache.path(), at).await?;
            Some((newest.number, seen))
        })
    }

    /// What a run without a kill publishes for this corpus.
    fn undisturbed(&self, reference: &Root) -> View {
        self.runtime.block_on(async {
            self.corpus.run(reference, &["encode.part_texts=3"]).await.unwrap();
            let newest = snapshot::newest(reference).await.unwrap().unwrap();
            let cache = tempfile::tempdir().unwrap();
            seen(reference, &newest, cache.path()).await
        })
    }

    /// Every file below the root, by its key, with its hash.
    fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        collect(&self.folder(), &self.folder(), &mut files);
        files
    }

    /// Makes all leases and heartbeats two minutes older.
    fn age_leases(&self) {
        let then = SystemTime::now() - Duration::from_secs(120);
        for entry in std::fs::read_dir(self.folder().join("leases")).into_iter().flatten() {
            std::fs::File::open(entry.unwrap().path()).unwrap().set_modified(then).unwrap();
        }
    }
}

fn collect(folder: &Path, root: &Path, files: &mut BTreeMap<String, String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, root, files);
        } else {
            let key = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(key, hash_file(&path).unwrap().to_hex());
        }
    }
}

/// All that lay in the root before is there still, byte for byte: leases and text prepared for a day without
/// changes may go.
#[track_caller]
fn untouched(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>, at: &str) {
    for (key, hash) in before {
        if !key.starts_with("leases/") && !key.starts_with("prepared/") {
            assert_eq!(after.get(key), Some(hash), "{at}: {key} was touched");
        }
    }
}

/// What the crash table says of a border, for the test.
struct Row {
    /// The new snapshot is there.
    published: bool,
    /// How many of the day's texts the next run encodes, after the first passing of the border.
    encodes: Encodes,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encodes {
    All,
    Some,
    Nothing,
}

/// `None` for the borders of gc and of an adaptation. Adding a border without saying what it leaves does not compile.
fn row(border: Border) -> Option<Row> {
    use Border as B;
    use Encodes::{All, Nothing, Some as Part};
    let (published, encodes) = match border {
        B::RunLease | B::Torn | B::Prepared | B::Located | B::Plan | B::Part => (false, All),
        B::PartReceipt | B::EncodeReceipt => (false, Part),
        B::Calibration | B::Index | B::Sidecar | B::IndexReceipt | B::Ids => (false, Nothing),
        B::BuildReceipt | B::CommitLease => (false, Nothing),
        B::Manifest | B::CommitLeaseGone | B::ReportJson | B::ReportHtml => (true, Nothing),
        B::RunLeaseGone | B::PreparedGone => (true, Nothing),
        // Of a run that adapts its query tower: `exec::adapt` kills it there.
        B::TowerFile | B::AdaptReceipt => return None,
        B::GcLease | B::ManifestGone | B::ReceiptGone | B::FileGone | B::GcLeaseGone => {
            return None;
        }
    };
    Some(Row { published, encodes })
}

/// One kill of a run and what follows from it. `place` is the evening before, with the day's notes already changed.
fn kill_a_run(place: &Place, border: Border, nth: u32, expected: &View) {
    let at = format!("killed at {}:{nth}", border.name());
    let row = row(border).unwrap();
    let place = place.copy();
    let (before, yesterday) = (place.files(), place.newest(&at));
    let killed = place.die_at("run p.toml --json --quiet", border, nth);
    if nth > 1 && killed.status.success() {
        return;
    }
    assert_eq!(killed.status.signal(), Some(SIGKILL), "{at}: {killed:?}");
    let left = place.files();
    untouched(&before, &left, &at);
    assert_left(border, nth, &before, &left, &at);
    let now = place.newest(&at);
    if row.published {
        assert_eq!(now.as_ref().map(|now| &now.1), Some(expected), "{at}: published");
    } else {
        assert_eq!(now, yesterday, "{at}: a reader sees yesterday's snapshot");
    }

    let report = place.run(&at);
    let result = report["outcome"]["result"].as_str().unwrap();
    assert_eq!(result, if row.published { "nothing-to-do" } else { "published" }, "{at}");
    let (all, again) = (expected_texts(&place, &before), encoded(&report));
    let encodes = match again {
        0 => Encodes::Nothing,
        some if some == all => Encodes::All,
        _ => Encodes::Some,
    };
    if nth == 1 {
        assert_eq!(encodes, row.encodes, "{at}: {again} of {all} texts");
    } else {
        assert!(again <= all, "{at}: {again} of {all} texts");
    }
    let after = place.files();
    untouched(&left, &after, &at);
    assert_eq!(&place.newest(&at).unwrap().1, expected, "{at}");
    let held = |key: &String| key.starts_with("leases/run-") && !key.contains('#');
    assert!(!after.keys().any(held), "{at}: the lease is released");
}

/// Texts that no part held before the day.
fn expected_texts(place: &Place, before: &BTreeMap<String, String>) -> u64 {
    let fresh = place.corpus.notes.values().filter(|(body, _)| body.starts_with("fresh"));
    match before.keys().any(|key| key.starts_with("snapshots/")) {
        true => fresh.count() as u64,
        false => place.corpus.notes.len() as u64,
    }
}

/// What is on the disk is what the table says.
fn assert_left(
    border: Border,
    nth: u32,
    before: &BTreeMap<String, String>,
    left: &BTreeMap<String, String>,
    at: &str,
) {
    let new: Vec<&String> = left.keys().filter(|key| !before.contains_key(*key)).collect();
    let count = |wanted: Border| {
        new.iter().filter(|key| !key.contains('#') && Border::written(key) == Some(wanted)).count()
    };
    let written = |wanted: Border| assert!(count(wanted) >= nth as usize, "{at}: {new:?}");
    let without = |file: Border, receipt: Border| {
        written(file);
        assert!(count(file) > count(receipt), "{at}: {new:?}");
    };
    use Border as B;
    match border {
        B::Torn => {
            let staged: Vec<_> = new.iter().filter(|key| key.contains('#')).collect();
            assert_eq!(staged.len(), 1, "{at}: half a file, {new:?}");
        }
        B::Part => without(B::Part, B::PartReceipt),
        B::Index => without(B::Index, B::IndexReceipt),
        B::Sidecar => without(B::Sidecar, B::IndexReceipt),
        B::Ids => without(B::Ids, B::BuildReceipt),
        B::RunLeaseGone => assert_eq!(count(B::RunLease), 0, "{at}: {new:?}"),
        B::CommitLeaseGone => assert_eq!(count(B::CommitLease), 0, "{at}: {new:?}"),
        B::PreparedGone => assert_eq!(count(B::Prepared), 2 - nth as usize, "{at}: {new:?}"),
        written_one => written(written_one),
    }
    let lease_is_left = border != B::RunLeaseGone && border != B::Torn;
    assert!(!lease_is_left || count(B::RunLease) == 1, "{at}: {new:?}");
}

/// Some days as they come: added, edited, deleted, nothing.
fn day_two(corpus: &mut Corpus) {
    for id in 0..9 {
        corpus.notes.insert(id, (format!("fresh text {id}"), 0));
    }
    for id in 100..109 {
        corpus.notes.insert(id, (format!("fresh note {id}"), 1));
    }
    (20..23).for_each(|id| drop(corpus.notes.remove(&id)));
    // Texts that are stored already, some of them in the other shard.
    for id in 200..210 {
        let body = corpus.notes[&(id - 170)].0.clone();
        corpus.notes.insert(id, (body, 0));
    }
}

#[test]
fn a_run_killed_at_any_step_border_is_invisible_and_the_next_one_ends_it() {
    let first = Place::new(Corpus::new(40));
    let reference = Root::in_memory();
    let expected_first = first.undisturbed(&reference);
    let mut second = first.copy();
    second.run("day one");
    day_two(&mut second.corpus);
    let expected_second = second.undisturbed(&reference);
    let third = second.copy();
    third.run("day two");

    let mut kills = Vec::new();
    for border in Border::ALL.iter().copied().filter(|border| row(*border).is_some()) {
        let (place, expected) = match border {
            Border::Calibration => (&first, &expected_first),
            Border::PreparedGone => (&third, &expected_second),
            _ => (&second, &expected_second),
        };
        kills.push((place, border, 1, expected));
        kills.push((place, border, 2, expected));
    }
    let count = kills.len();
    in_parallel(kills, |(place, border, nth, expected)| kill_a_run(place, border, nth, expected));
    println!("{count} kills of runs at step borders");
}

#[test]
fn a_gc_killed_at_any_step_border_takes_nothing_that_is_named() {
    let mut place = Place::new(Corpus::new(40));
    place.run("day one");
    day_two(&mut place.corpus);
    place.run("day two");
    place.corpus.notes.remove(&30);
    place.run("day three");
    let line = "snapshot gc root --keep 1 --grace-hours 0 --runs-days 0";
    let finish = |place: &Place, at: &str| {
        let output = place.command(line).output().unwrap();
        assert!(output.status.success(), "{at}: {}", String::from_utf8_lossy(&output.stderr));
        // The lease of a dead gc goes a day later.
        let keys = place.files().into_keys().filter(|key| !key.starts_with("leases/"));
        keys.collect::<BTreeSet<String>>()
    };
    let whole = place.copy();
    let expected = finish(&whole, "not killed");
    let view = whole.newest("not killed").unwrap();
    let of_adapt = [Border::TowerFile, Border::AdaptReceipt];
    let of_gc = Border::ALL.iter().copied().filter(|border| row(*border).is_none());
    let of_gc = of_gc.filter(|border| !of_adapt.contains(border));
    let kills: Vec<(Border, u32)> =
        of_gc.flat_map(|border| [1, 2, 5].map(|nth| (border, nth))).collect();
    in_parallel(kills, |(border, nth)| {
        let at = format!("gc killed at {}:{nth}", border.name());
        let place = place.copy();
        let killed = place.die_at(line, border, nth);
        if nth > 1 && killed.status.success() {
            return;
        }
        assert_eq!(killed.status.signal(), Some(SIGKILL), "{at}: {killed:?}");
        assert_eq!(place.newest(&at).as_ref(), Some(&view), "{at}");
        // The process is dead: a minute later its lease holds nobody up.
        place.age_leases();
        let report = place.copy().run(&at);
        assert_eq!(report["outcome"]["result"], "nothing-to-do", "{at}");
        let left = finish(&place, &at);
        let differing: Vec<_> = left.symmetric_difference(&expected).collect();
        assert!(differing.is_empty(), "{at}: {differing:?}");
        assert_eq!(place.newest(&at).as_ref(), Some(&view), "{at}");
    });
}

fn in_parallel<T: Send>(work: Vec<T>, task: impl Fn(T) + Sync) {
    let work = Mutex::new(work);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(next) = work.lock().unwrap().pop() else { break };
                    task(next);
                }
            });
        }
    });
}

/// Several days, each run killed a few times by SIGKILL: at random moments, or at random step borders.
fn killed_at_random(seed: u64) -> (u32, u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut place = Place::new(Corpus::new(40));
    let reference = Root::in_memory();
    let (mut runs, mut kills) = (0, 0);
    let mut yesterday = None;
    for day in 0..4 {
        if day != 2 {
            place.corpus.live_a_day(&mut random);
        }
        let expected = place.undisturbed(&reference);
        let started = Instant::now();
        let _timed = place.copy().run("timed");
        let usual = started.elapsed();
        for attempt in 0..3 {
            let at = format!("seed {seed}, day {day}, attempt {attempt}");
            let before = place.files();
            let mut command = place.command("run p.toml --json --quiet");
            if random.random_bool(0.5) {
                let border = Border::ALL[random.random_range(0..Border::ALL.len())];
                command.env(
                    border::FAIL_AT,
                    format!("{}:{}", border.name(), random.random_range(1..4)),
                );
            }
            let pause = usual.mul_f64(random.random_range(0.0..1.1));
            let mut child =
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program");
            std::thread::sleep(pause);
            child.kill().unwrap();
            let ended = child.wait().unwrap();
            runs += 1;
            kills += u32::from(ended.signal() == Some(SIGKILL));
            assert!(ended.success() || ended.signal() == Some(SIGKILL), "{at}: {ended}");
            untouched(&before, &place.files(), &at);
            let now = place.newest(&at).map(|now| now.1);
            assert!(now.as_ref() == Some(&expected) || now == yesterday, "{at}");
        }
        let at = format!("seed {seed}, day {day}");
        place.run(&at);
        runs += 1;
        assert_eq!(place.newest(&at).unwrap().1, expected, "{at}");
        yesterday = Some(expected);
    }
    (runs, kills)
}

/// `SCALINGNOTE_KILL_SCHEDULES` seeded schedules (2 unless set) from `SCALINGNOTE_FAULT_SEED` (0 unless set).
#[test]
fn runs_killed_at_random_moments_are_invisible() {
    let first = env_number("SCALINGNOTE_FAULT_SEED", 0);
    let count = env_number("SCALINGNOTE_KILL_SCHEDULES", 2);
    let total = Mutex::new((0, 0));
    in_parallel((first..first + count).rev().collect(), |seed| {
        let (runs, kills) = killed_at_random(seed);
        let mut total = total.lock().unwrap();
        *total = (total.0 + runs, total.1 + kills);
    });
    let (runs, kills) = total.into_inner().unwrap();
    println!("{count} schedules of 4 days from seed {first}: {runs} runs, {kills} killed");
    assert!(kills > 0, "some must have been killed");
}

const BEGIN: &str =
    "<!-- crash table: made from src/store/border.rs, UPDATE_README=1 writes it -->\n";
const END: &str = "<!-- end of the crash table -->";

fn crash_table() -> String {
    let mut table =
        String::from("| killed right after | what is there then | the next run |\n|---|---|---|\n");
    for border in Border::ALL {
        table.push_str(&format!(
            "| {} (`{}`) | {} | {} |\n",
            border.what(),
            border.name(),
            border.left(),
            border.next()
        ));
    }
    table
}

#[test]
fn the_crash_table_of_the_readme_is_that_of_the_borders() {
    let path = package().join("tests/README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = readme.split_once(BEGIN).expect("tests/README.md has the crash table");
    let (table, tail) = rest.split_once(END).expect("tests/README.md ends the crash table");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{}{END}{tail}", crash_table())).unwrap();
        return;
    }
    assert_eq!(table, crash_table(), "UPDATE_README=1 writes it again");
}

/// A kind of object that no border knows would be a write at which nobody ever tried a kill.
#[test]
fn every_object_of_a_root_has_its_border() {
    let place = Place::new(Corpus::new(30));
    place.run("day one");
    let files = place.files();
    assert!(files.len() > 15, "{files:?}");
    for key in files.keys() {
        let border = Border::written(key);
        assert!(border.is_some(), "{key} has no border: add one to src/store/border.rs");
        let kind = key.rsplit('.').next().unwrap();
        let fits = match border.unwrap() {
            Border::Ids => key.ends_with(".ids.parquet"),
            Border::Prepared | Border::Located | Border::Part => kind == "parquet",
            Border::ReportHtml => kind == "html",
            Border::Index => kind == "usearch",
            Border::Sidecar => kind == "f16",
            _ => kind == "json",
        };
        assert!(fits, "{key} passes for {border:?}: add a border to src/store/border.rs");
    }
    assert!(files.keys().any(|key| layout::manifest_number(key) == Some(1)));
}
