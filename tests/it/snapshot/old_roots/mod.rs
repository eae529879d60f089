//! Roots that earlier releases made (tests/fixtures): opened, searched, verified and continued by this one.

mod formats;
mod python;
mod quickstart;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use scalingnote::config::{Pipeline, resolve};
use scalingnote::observe::{Reporter, Silent};
use scalingnote::search::{Answer, Hit, QueryEncoder, Snapshot};
use scalingnote::snapshot::{self, Manifest};
use scalingnote::store::Root;
use scalingnote::tower::{DeviceSpec, Tower, TowerOptions};
use scalingnote::types::Digest256;

use crate::fixture::checkout::package;
use crate::fixture::files::walk;
use crate::fixture::program::program;

/// The roots of release 0.1.0, each in a folder with its pipeline and notes.
const ROOTS: [&str; 2] = ["i8", "f16"];

/// The day whose notes the newest snapshot has, each root's.
fn newest_day(name: &str) -> u32 {
    if name == "i8" { 3 } else { 2 }
}

fn fixture() -> PathBuf {
    package().join("tests/fixtures/root-0.1.0")
}

/// A copy of one of the roots, and of the hub's cache with its query tower.
struct OldRoot {
    folder: tempfile::TempDir,
    name: &'static str,
}

impl OldRoot {
    fn copy(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in [name, "hub"] {
            let source = fixture().join(part);
            for file in walk(&source) {
                let target = folder.path().join(Path::new(&file).strip_prefix(fixture()).unwrap());
                std::fs::create_dir_all(target.parent().unwrap()).unwrap();
                std::fs::copy(file, target).unwrap();
            }
        }
        let copy = Self { folder, name };
        copy.write_day(newest_day(name));
        copy
    }

    /// Where the pipeline, the notes and the folder `root` lie.
    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn open(&self) -> Root {
        Root::open(self.path().join("root").to_str().unwrap()).unwrap()
    }

    /// The folder of the query tower that was distilled.
    fn student(&self) -> PathBuf {
        let weights = walk(&self.folder.path().join("hub"));
        let weights = weights.iter().find(|file| file.ends_with("model.safetensors")).unwrap();
        Path::new(weights).parent().unwrap().to_owned()
    }

    fn write_day(&self, day: u32) {
        let path = self.path();
        std::fs::copy(path.join(format!("day-{day}.jsonl")), path.join("notes.jsonl")).unwrap();
    }

    /// Gives the third note, which is short, another text.
    fn edit(&self) {
        let path = self.path().join("notes.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut note: Value = serde_json::from_str(&lines[2]).unwrap();
        note["body"] = "measure the keel in the cellar".into();
        lines[2] = note.to_string();
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    }

    fn command(&self) -> Command {
        let mut command = program(&self.path());
        command.env("HF_HUB_CACHE", self.folder.path().join("hub")).env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs a command that must end with `code`; gives stdout as JSON.
    #[track_caller]
    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.command().args(arguments).arg("--json").output().unwrap();
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// A run that must do what was to be done with `encoded` texts; its report.
    #[track_caller]
    fn run(&self, encoded: u64) -> Value {
        let report = self.json(0, &["run", "pipeline.toml"]);
        assert_eq!(report["reuse"]["encoded"], encoded, "{report}");
        report
    }

    /// [`Self::run`] that must find nothing to do.
    #[track_caller]
    fn run_idle(&self) {
        let newest = *self.numbers().last().unwrap();
        let before = self.parts();
        let report = self.run(0);
        assert_eq!(report["outcome"], json!({"result": "nothing-to-do", "snapshot": newest}));
        assert_eq!((self.parts(), self.numbers().last()), (before, Some(&newest)));
    }

    fn parts(&self) -> Vec<String> {
        let mut parts = walk(&self.path().join("root/embeddings"));
        parts.sort();
        parts
    }

    fn numbers(&self) -> Vec<u64> {
        let names = walk(&self.path().join("root/snapshots"));
        let number = |name: &String| Path::new(name).file_stem()?.to_str()?.parse().ok();
        let numbers: BTreeSet<u64> = names.iter().filter_map(number).collect();
        numbers.into_iter().collect()
    }

    /// The manifest as it is there.
    fn manifest(&self, number: u64) -> Value {
        let path = self.path().join(format!("root/snapshots/{number:020}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[track_caller]
    fn verify(&self, number: u64) -> Value {
        let checked = self.json(0, &["snapshot", "verify", "root", &number.to_string()]);
        assert_eq!(checked["problems"], json!([]), "{checked}");
        assert!(checked["canaries"].as_u64().unwrap() > 0, "{checked}");
        checked
    }

    /// Asks every snapshot that is left what the program of then was asked.
    async fn assert_answers(&self) {
        let text = std::fs::read_to_string(self.path().join("answers.json")).unwrap();
        let asked: Vec<Asked> = serde_json::from_str(&text).unwrap();
        let root = self.open();
        let cache = tempfile::tempdir().unwrap();
        for number in self.numbers() {
            let opened = Snapshot::open(&root, Some(number), cache.path()).await.unwrap();
            let encoder = self.encoder(opened.manifest()).await;
            let mut answers = 0;
            for asked in asked.iter().filter(|asked| asked.answer["snapshot"] == number) {
                asked.assert_answered_by(&opened, &encoder);
                answers += 1;
            }
            assert!(answers == 6, "snapshot {number} of {}: {answers} answers", self.name);
        }
    }

    async fn encoder(&self, manifest: &Manifest) -> QueryEncoder {
        let tower = &manifest.content.query_towers[0];
        let student = (tower.kind == "distilled").then(|| self.student());
        let student = student.as_ref().map(|path| path.to_str().unwrap());
        let cpu = DeviceSpec::Cpu { threads: 1 };
        let (root, path) = (Root::in_memory(), self.path());
        QueryEncoder::load(&root, manifest, student, &path, &cpu, &silent()).await.unwrap()
    }

    fn pipeline(&self, file: &str) -> Pipeline {
        resolve(&self.path().join(file), [], &[]).unwrap().pipeline
    }
}

fn silent() -> Arc<dyn Reporter> {
    Arc::new(Silent)
}

/// A search, and what the program of then printed.
#[derive(Deserialize)]
struct Asked {
    text: String,
    arguments: Vec<String>,
    answer: Value,
}

impl Asked {
    fn assert_answered_by(&self, opened: &Snapshot, encoder: &QueryEncoder) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let vector = encoder.encode(&self.text).unwrap();
        let k = self.answer["hits"].as_array().unwrap().len();
        let found = match arguments[..] {
            [] => opened.search_vector(&vector, k, false),
            ["--exact"] => opened.search_vector(&vector, k, true),
            ["--where", condition] => {
                opened.search_among(&vector, k, false, &opened.passing(condition).unwrap())
            }
            _ => panic!("{arguments:?}"),
        };
        let query_tower = Some(encoder.tower().fingerprint.to_hex());
        let snapshot = opened.manifest().number;
        let answer = Answer { snapshot, query_tower, hits: Hit::ranked(found.unwrap()) };
        assert_same_answer(serde_json::to_value(answer).unwrap(), self.answer.clone());
    }
}

/// Everything as it was, scores but for rounding.
#[track_caller]
fn assert_same_answer(mut found: Value, mut expected: Value) {
    let scores = |answer: &mut Value| -> Vec<f64> {
        let hits = answer["hits"].as_array_mut().unwrap().iter_mut();
        hits.map(|hit| hit["score"].take().as_f64().unwrap()).collect()
    };
    let (new, old) = (scores(&mut found), scores(&mut expected));
    assert_eq!(found, expected);
    assert!(new.iter().zip(&old).all(|(new, old)| (new - old).abs() < 1e-5), "{new:?} {old:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_snapshot_answers_as_it_did() {
    for name in ROOTS {
        let old = OldRoot::copy(name);
        old.assert_answers().await;
        // Through the program, which finds the query tower as the manifest names it.
        let text = std::fs::read_to_string(old.path().join("answers.json")).unwrap();
        let asked: Vec<Asked> = serde_json::from_str(&text).unwrap();
        let last = asked.iter().rfind(|asked| asked.arguments.is_empty()).unwrap();
        let found = old.json(0, &["search", "pipeline.toml", &last.text, "-k", "4"]);
        assert_same_answer(found, last.answer.clone());
    }
}

#[test]
fn every_snapshot_is_listed_shown_and_verified() {
    let mut samples = 0;
    for name in ROOTS {
        let old = OldRoot::copy(name);
        let numbers = old.numbers();
        let listed = old.json(0, &["snapshot", "list", "root"]);
        assert_eq!(listed.as_array().unwrap().len(), numbers.len());
        for (number, row) in numbers.iter().zip(listed.as_array().unwrap()) {
            let manifest = old.manifest(*number);
            let content = &manifest["content"];
            let wanted = [&manifest["number"], &manifest["content_hash"], &content["notes"]];
            assert_eq!([&row["number"], &row["content_hash"], &row["notes"]], wanted);
            assert_eq!(
                [&row["vectors"], &row["space"]],
                [&content["vectors"], &content["space_id"]]
            );
            assert_eq!(old.json(0, &["snapshot", "show", "root", &number.to_string()]), manifest);
            let sample = &old.verify(*number)["sample"];
            // A rollback's content is that of the run which published it first.
            let mut same = numbers.iter().map(|&number| old.manifest(number));
            let maker = same.find(|other| other["content_hash"] == manifest["content_hash"]);
            let run = maker.unwrap()["provenance"]["run"].as_str().unwrap().to_owned();
            let has_text = old.path().join("root/prepared").join(run).is_dir();
            assert_eq!(sample["notes"].as_u64().unwrap() > 0, has_text, "{number}: {sample}");
            samples += usize::from(has_text);
        }
    }
    assert_eq!(samples, 4, "snapshots whose notes could be encoded again");
    let old = OldRoot::copy("i8");
    let diff = old.json(0, &["snapshot", "diff", "root", "2", "3", "--notes"]);
    let notes = &diff["notes"];
    assert_eq!([&notes["added"], &notes["removed"], &notes["changed"]], [0, 0, 2], "{diff}");
}

#[test]
fn the_same_notes_are_nothing_to_do() {
    for name in ROOTS {
        OldRoot::copy(name).run_idle();
    }
}

#[test]
fn one_changed_note_is_one_text_and_one_snapshot() {
    for name in ROOTS {
        let old = OldRoot::copy(name);
        let before = old.manifest(*old.numbers().last().unwrap());
        let number = before["number"].as_u64().unwrap() + 1;
        old.edit();
        let report = old.run(1);
        assert_eq!(report["outcome"], json!({"result": "published", "snapshot": number}));
        assert_eq!(report["shards_rebuilt"], 0, "the old segments stay: {report}");
        let after = old.manifest(number);
        for same in ["blocked", "blocked_spaces", "purged"] {
            assert_eq!(after[same], before[same], "{same}");
        }
        for same in ["space", "notes", "shard_count", "index", "stored_columns", "query_towers"] {
            assert_eq!(after["content"][same], before["content"][same], "{same}");
        }
        old.verify(number);
        old.run_idle();
    }
}

#[test]
fn what_was_rolled_back_stays_away() {
    let old = OldRoot::copy("i8");
    old.write_day(4);
    let report = old.json(3, &["run", "pipeline.toml"]);
    assert_eq!(
        (&report["outcome"]["result"], &report["reuse"]["encoded"]),
        (&json!("gate-refused"), &json!(0))
    );
    let said = report["warnings"].to_string();
    assert!(said.contains("was rolled back in snapshot 5"), "{said}");
    assert_eq!(old.numbers(), [1, 2, 3, 4, 5]);

    // A tower that was rolled back does not take over again.
    let old = OldRoot::copy("f16");
    let report = old.json(0, &["run", "next.toml"]);
    assert_eq!(report["outcome"], json!({"result": "nothing-to-do", "snapshot": 5}));
    assert_eq!(report["backfill"]["state"], json!({"is": "rolled-back"}), "{report}");
    assert_eq!(old.numbers(), [2, 3, 4, 5]);
}

#[test]
fn a_purged_note_stays_away_until_it_is_let_back() {
    let old = OldRoot::copy("f16");
    let notes = std::fs::read_to_string(old.path().join("notes.jsonl")).unwrap();
    assert!(notes.contains("notes/07"), "the corpus still has it");
    let kept = old.manifest(5)["content"]["notes"].as_u64().unwrap();
    assert_eq!(kept, notes.lines().count() as u64 - 1);
    old.json(0, &["purge", "root", "--note-id", "s:notes/07", "--lift"]);
    old.run(1);
    let newest = old.manifest(*old.numbers().last().unwrap());
    assert_eq!(newest["content"]["notes"], kept + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_keeps_what_readers_and_the_next_run_need() {
    for name in ROOTS {
        let old = OldRoot::copy(name);
        let all = old.numbers();
        for (keep, left) in [("99", &all[..]), ("1", &all[all.len() - 1..])] {
            let gc = ["snapshot", "gc", "root", "--grace-hours", "0", "--runs-days", "0", "--keep"];
            let report = old.json(0, &[&gc[..], &[keep]].concat());
            assert_eq!(report["kept_snapshots"], json!(left), "{report}");
            assert_eq!(old.numbers(), left);
            left.iter().for_each(|number| drop(old.verify(*number)));
            old.assert_answers().await;
            old.run_idle();
        }
    }
}

#[tokio::test]
async fn the_spaces_are_those_of_the_pipeline() {
    for name in ROOTS {
        let old = OldRoot::copy(name);
        let newest = snapshot::newest(&old.open()).await.unwrap().unwrap();
        let pipeline = old.pipeline("pipeline.toml");
        let space = |pipeline: &Pipeline, tower: &Tower| {
            tower.space(Digest256::of(pipeline.corpus.template.as_bytes())).id().unwrap()
        };
        let resolve = async |options: &TowerOptions| {
            Tower::resolve(options, &pipeline.base_dir, &silent()).await.unwrap()
        };
        let tower = resolve(&pipeline.tower).await;
        assert_eq!(space(&pipeline, &tower), newest.content.space_id);
        let mut query = pipeline.query_tower();
        if pipeline.query.tower.is_some() {
            query.model = old.student().to_str().unwrap().to_owned();
        }
        let query = resolve(&query).await;
        tower.admits(&query).unwrap();
        assert_eq!(query.fingerprint().unwrap(), newest.content.query_towers[0].fingerprint);
        if name == "f16" {
            let next = old.pipeline("next.toml").after_next().unwrap();
            let id = space(&next, &resolve(&next.tower).await);
            assert_eq!(newest.blocked_spaces, [id]);
        }
    }
}
