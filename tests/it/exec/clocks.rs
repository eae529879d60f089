//! Several machines with clocks of their own on one shared folder, each the real program: every age goes by the file
//! server's clock, and a process that is suspended while it passes harms nobody.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use serde_json::Value;

use scalingnote::snapshot::{self, Manifest};
use scalingnote::store::{Root, layout};

use crate::fixture::days::newest_seen;
use crate::fixture::machine::{self, Stopped, ahead, pass, stamps, stopping};
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place as Folder;

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;
/// Clocks that are wrong by minutes and by days, either way.
const WRONG: [i64; 4] = [-3 * DAY, -10 * MINUTE, 10 * MINUTE, 3 * DAY];
const RUN: &str = "run p.toml --json --quiet";
/// Keeps what is younger than a day, and of runs a week.
const GC: &str = "snapshot gc root --keep 1 --json";

/// The shared folder with the notes of some days.
struct Place(Folder);

impl Place {
    fn new() -> Self {
        let sections = "[encode]\npart_texts = 8\n[index]\nshards = 2\n";
        let pipeline = PipelineFile { sections, root: "root", ..PipelineFile::default() };
        let place = Self(Folder::with(&pipeline));
        place.write_notes(0);
        place
    }

    fn write_notes(&self, day: usize) {
        let version = |id: i64| if id < 12 { day } else { 0 };
        self.0.write_notes(0..40, |id| format!("note {id}, version {}", version(id)));
    }

    fn folder(&self) -> PathBuf {
        self.0.path("root")
    }

    fn root(&self) -> Root {
        Root::open(self.folder().to_str().unwrap()).unwrap()
    }

    fn on(&self, seconds: i64, line: &str) -> Command {
        ahead(self.0.command(line), seconds)
    }

    /// A run that must publish the snapshot `number`.
    #[track_caller]
    fn publishes(&self, seconds: i64, number: u64) {
        let output = self.on(seconds, RUN).output().unwrap();
        let report = told(&output, 0);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["outcome"]["snapshot"], number, "{report}");
    }

    /// What a gc deletes.
    #[track_caller]
    fn collects(&self, seconds: i64) -> Vec<String> {
        let output = self.on(seconds, GC).output().unwrap();
        let report: Value = serde_json::from_str(&told(&output, 0)).unwrap();
        let deleted = report["deleted"].as_array().unwrap().iter();
        deleted.map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::runtime::Runtime::new().unwrap().block_on(work)
    }

    fn numbers(&self) -> Vec<u64> {
        self.block_on(async { snapshot::numbers(&self.root()).await.unwrap() })
    }

    fn manifest(&self, number: u64) -> Manifest {
        self.block_on(async { snapshot::read(&self.root(), number).await.unwrap() })
    }

    /// The number of the newest snapshot, which a reader opens and finds whole.
    fn newest(&self, at: &str) -> u64 {
        let cache = tempfile::tempdir().unwrap();
        let newest = self.block_on(async { newest_seen(&self.root(), cache.path(), at).await });
        newest.expect("a snapshot").0.number
    }

    fn has(&self, key: &str) -> bool {
        self.folder().join(key).exists()
    }
}

/// What a program that must end with `code` printed: stdout, or stderr where it failed.
#[track_caller]
fn told(output: &Output, code: i32) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    if code == 0 { out.into_owned() } else { err.into_owned() }
}

fn key_of(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn every_file_bears_the_file_servers_time_whatever_its_writer_believes() {
    if !machine::is_there() {
        return;
    }
    for seconds in WRONG {
        let place = Place::new();
        // The kernel stamps by ticks.
        let before = SystemTime::now() - Duration::from_secs(1);
        place.publishes(seconds, 1);
        let after = SystemTime::now() + Duration::from_secs(1);
        let believed = place.manifest(1).provenance.created_at;
        let believed: DateTime<Utc> = believed.parse().unwrap();
        let off = (believed - DateTime::<Utc>::from(before)).num_seconds() - seconds;
        assert!(off.abs() < 600, "the machine's clock is not what it should be: {believed}");
        let stamps = stamps(&place.folder());
        assert!(stamps.len() > 10, "{stamps:?}");
        for (path, modified) in stamps {
            let key = key_of(&path, &place.folder());
            assert!(before <= modified && modified <= after, "{seconds} s, {key}: {modified:?}");
        }
    }
}

#[test]
fn a_live_run_is_not_taken_over_by_a_machine_with_another_clock() {
    if !machine::is_there() {
        return;
    }
    for (ours, others) in WRONG.into_iter().zip(WRONG.into_iter().rev()).chain([(0, 10 * MINUTE)]) {
        let place = Place::new();
        let run = Stopped::start(stopping(place.on(ours, RUN), "before:plan.json"));
        let busy = place.on(others, "run p.toml --quiet").output().unwrap();
        let busy = told(&busy, 75);
        assert!(busy.contains("is in progress"), "{ours} s and {others} s: {busy}");
        // And a gc leaves alone what it made so far.
        assert_eq!(place.collects(others), [] as [&str; 0], "{ours} s and {others} s");
        told(&run.go_on(), 0);
        assert_eq!(place.newest("let go on"), 1);
    }
}

#[test]
fn a_gc_deletes_what_is_old_by_the_file_servers_clock_and_nothing_else() {
    if !machine::is_there() {
        return;
    }
    for seconds in WRONG {
        let place = Place::new();
        place.publishes(-seconds, 1);
        place.write_notes(1);
        place.publishes(-seconds, 2);
        assert_eq!(place.collects(seconds), [] as [&str; 0], "{seconds} s: all is young");
        pass(&place.folder(), Duration::from_secs(8 * DAY as u64));
        let deleted = place.collects(seconds);
        assert!(deleted.contains(&layout::manifest(1)), "{seconds} s: {deleted:?}");
        assert_eq!(place.newest("collected"), 2);
    }
}

/// A publisher that stands still right before its put for ten days, in which a gc takes what no manifest names.
#[test]
fn a_publisher_that_stood_still_while_its_files_went_puts_the_old_content_back() {
    if !machine::is_there() {
        return;
    }
    for seconds in [-3 * DAY, 0, 3 * DAY] {
        let place = Place::new();
        place.publishes(0, 1);
        place.write_notes(1);
        let asleep = stopping(place.on(seconds, RUN), "before:snapshots/");
        let asleep = Stopped::start(asleep);
        pass(&place.folder(), Duration::from_secs(10 * DAY as u64));
        let deleted = place.collects(0);
        assert!(deleted.iter().any(|key| key.starts_with("indexes/")), "{deleted:?}");
        let late = told(&asleep.go_on(), 75);
        assert!(late.contains("serves the content of snapshot 1 again"), "{seconds} s: {late}");

        assert_eq!(place.newest("put back"), 3, "a reader opens it");
        let (first, broken, third) = (place.manifest(1), place.manifest(2), place.manifest(3));
        assert_eq!(third.content_hash, first.content_hash);
        assert_ne!(broken.content_hash, first.content_hash, "what was listed stays");
        assert!(third.blocked.is_empty(), "nobody decided against it");
        place.publishes(seconds, 4);
        assert_eq!(place.newest("made again"), 4);
        assert_eq!(place.manifest(4).content_hash, broken.content_hash);
    }
}

/// Half a put: a gc has removed what was staged.
#[test]
fn a_publisher_whose_staged_manifest_went_publishes_nothing() {
    if !machine::is_there() {
        return;
    }
    let place = Place::new();
    place.publishes(0, 1);
    place.write_notes(1);
    let asleep = Stopped::start(stopping(place.on(0, RUN), "staged:snapshots/"));
    pass(&place.folder(), Duration::from_secs(10 * DAY as u64));
    place.collects(0);
    let late = told(&asleep.go_on(), 75);
    assert!(late.contains("suspended for so long"), "{late}");
    assert_eq!(place.newest("nothing was published"), 1);
    place.publishes(0, 2);
}

/// Before the first snapshot there is nothing to put back: the error says what a person has to decide.
#[test]
fn a_first_snapshot_whose_files_went_is_told_loudly() {
    if !machine::is_there() {
        return;
    }
    let place = Place::new();
    let asleep = Stopped::start(stopping(place.on(0, RUN), "before:snapshots/"));
    pass(&place.folder(), Duration::from_secs(10 * DAY as u64));
    assert!(!place.collects(0).is_empty());
    let late = told(&asleep.go_on(), 1);
    assert!(late.contains(&layout::manifest(1)) && late.contains("by hand"), "{late}");
    std::fs::remove_file(place.folder().join(layout::manifest(1))).unwrap();
    place.publishes(0, 1);
    assert_eq!(place.newest("made again"), 1);
}

/// It was suspended for so long that a gc has freed its number again.
#[test]
fn a_publisher_whose_number_was_freed_again_has_lost_and_is_seen_by_nobody() {
    if !machine::is_there() {
        return;
    }
    for seconds in [-3 * DAY, 0, 3 * DAY] {
        let place = Place::new();
        place.publishes(0, 1);
        place.write_notes(1);
        let asleep = Stopped::start(stopping(place.on(seconds, RUN), "before:snapshots/"));
        for day in 2..5 {
            // Its lease goes stale.
            pass(&place.folder(), Duration::from_secs(3_600));
            place.write_notes(day);
            place.publishes(0, day as u64);
        }
        pass(&place.folder(), Duration::from_secs(10 * DAY as u64));
        place.collects(0);
        assert_eq!(place.numbers(), [4]);
        let late = told(&asleep.go_on(), 75);
        assert!(late.contains("snapshot 4 was published"), "{seconds} s: {late}");
        assert_eq!(place.newest("came late"), 4);
        pass(&place.folder(), Duration::from_secs(10 * DAY as u64));
        place.collects(0);
        assert_eq!(place.numbers(), [4], "the late one goes as any old one does");
    }
}

/// Between its put and its second look a newer snapshot was published: by the clock of the first machine an older one.
#[test]
fn a_published_snapshot_is_never_taken_back() {
    if !machine::is_there() {
        return;
    }
    for seconds in WRONG {
        let place = Place::new();
        place.publishes(0, 1);
        place.write_notes(1);
        let slow = Stopped::start(stopping(place.on(seconds, RUN), "after:snapshots/"));
        assert_eq!(place.numbers(), [1, 2]);
        let back = place.0.run("snapshot rollback root 1 --reason test");
        told(&back, 0);
        told(&slow.go_on(), 0);
        assert_eq!(place.numbers(), [1, 2, 3], "{seconds} s");
        assert!(place.has(&layout::manifest(2)));
        assert_eq!(place.newest("rolled back"), 3);
    }
}
