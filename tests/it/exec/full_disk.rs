//! Runs of the real program onto a disk that is really full (a small tmpfs): what is told, what is left, and that the
//! run after space was made ends as if nothing had been.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use scalingnote::snapshot;
use scalingnote::store::Root;

use crate::fixture::days::newest_seen;
use crate::fixture::disk::again_on_a_small_disk;
use crate::fixture::files::walk;
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::program::program;

/// Set in the process that has the disk to itself.
const INNER: &str = "SCALINGNOTE_TEST_FULL_DISK_RUNS";

/// Runs itself again in a mount namespace of its own, on a tmpfs of 8 MiB.
#[test]
fn runs_on_a_full_disk_publish_nothing_and_are_made_good() {
    if let Some(disk) = std::env::var_os(INNER) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(fill(Path::new(&disk)));
        return;
    }
    let name = "exec::full_disk::runs_on_a_full_disk_publish_nothing_and_are_made_good";
    again_on_a_small_disk(name, INNER, 8);
}

/// A pipeline whose root is on the small disk; everything else is elsewhere.
struct Place {
    folder: tempfile::TempDir,
    disk: PathBuf,
}

impl Place {
    fn write_notes(&self, day: usize) {
        let lines = (0..400).map(|id| {
            let version = if id < 60 { day } else { 0 };
            serde_json::json!({ "id": id, "body": format!("note {id}, version {version}") })
        });
        let lines: Vec<String> = lines.map(|line| line.to_string()).collect();
        std::fs::write(self.folder.path().join("notes.jsonl"), lines.join("\n")).unwrap();
    }

    fn run(&self, root: &Path) -> Output {
        program(self.folder.path())
            .args(["run", "p.toml", "--set"])
            .arg(format!("publish.root={}", root.display()))
            .env("TMPDIR", self.folder.path())
            .output()
            .unwrap()
    }

    /// Leaves `kib` free on the disk.
    fn leave(&self, kib: u64) {
        let path = self.disk.join("ballast");
        let mut ballast = std::fs::File::create(&path).unwrap();
        let page = [0x55; 4096];
        while ballast.write_all(&page).is_ok() {}
        let length = ballast.metadata().unwrap().len();
        ballast.set_len(length.saturating_sub(kib << 10)).unwrap();
    }
}

async fn view(root: &Path, cache: &Path) -> (u64, BTreeMap<String, String>) {
    let root = Root::open(root.to_str().unwrap()).unwrap();
    let (newest, seen) = newest_seen(&root, cache, "").await.expect("a snapshot");
    (newest.number, seen)
}

async fn fill(disk: &Path) {
    let place = Place { folder: tempfile::tempdir_in("/var/tmp").unwrap(), disk: disk.to_owned() };
    let pipeline = PipelineFile {
        sections: "[index]\nshards = 2\n",
        root: "replaced",
        ..PipelineFile::default()
    };
    std::fs::write(place.folder.path().join("p.toml"), pipeline.text()).unwrap();
    let cache = place.folder.path().join("cache");
    let (root, fair) = (disk.join("root"), place.folder.path().join("fair"));
    let mut failed = 0;
    for day in 0..2 {
        place.write_notes(day);
        let first = place.run(&fair);
        assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
        let before = match day {
            0 => None,
            _ => Some(view(&root, &cache).await),
        };
        // Ever a little more room: the disk is full at every point of a run, from its first write to its last.
        let mut points = 0;
        for kib in (0..).step_by(4) {
            place.leave(kib);
            let output = place.run(&root);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                break;
            }
            points += 1;
            assert_eq!(output.status.code(), Some(1), "day {day}, {kib} KiB free: {told}");
            assert!(told.contains("full"), "day {day}, {kib} KiB free: {told}");
            let staged: Vec<_> =
                walk(&root).into_iter().filter(|name| name.contains('#')).collect();
            assert!(staged.is_empty(), "day {day}, {kib} KiB free: {staged:?}");
            if told.contains("is published, but the run's report could not be stored") {
                // Whole, as the view below will say; nothing is left to be done.
                continue;
            }
            match &before {
                Some(before) => assert_eq!(view(&root, &cache).await, *before),
                None => {
                    let root = Root::open(root.to_str().unwrap()).unwrap();
                    assert_eq!(snapshot::numbers(&root).await.unwrap(), [] as [u64; 0]);
                }
            }
        }
        std::fs::remove_file(disk.join("ballast")).unwrap();
        let ours = view(&root, &cache).await;
        assert_eq!(ours, view(&fair, &cache).await, "day {day}");
        assert!(points > 5, "only {points} runs met a full disk");
        failed += points;
    }
    println!("{failed} runs met a full disk");
}
