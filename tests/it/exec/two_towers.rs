//! Vectors of two towers never mix: weights that change under a run, a plan published with another pipeline, query
//! towers made for another document tower.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use scalingnote::config::resolve;
use scalingnote::error::{Error, ErrorKind, Result};
use scalingnote::exec::{self, RunContext, RunOptions};
use scalingnote::observe::{Event, Reporter, Silent, Stage};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::snapshot::{self, Manifest, Provenance, QueryTower};
use scalingnote::store::Root;
use scalingnote::tower::{Tower, TowerOptions};
use scalingnote::types::{Cancel, Digest256, EmbeddingSpace};

use crate::fixture::files::walk;
use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{self, folder};

fn pipeline() -> String {
    let sections = "[encode]\npart_texts = 4\ndevices = [\"cpu:1\"]\n[index]\nshards = 1\n";
    training::pipeline("model", "", sections)
}

/// A query tower of its own.
const STUDENT: &str = "[query.tower]\nmodel = \"student\"\npooling = \"mean\"\nmax_tokens = 32\n";

/// A model, a corpus and a pipeline.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(folder());
        place.write("p.toml", &pipeline());
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn weights(&self) -> std::path::PathBuf {
        self.path().join("model/model.safetensors")
    }

    /// Writes other numbers into the weights, in place; size and time of modification stay. Twice brings them back.
    fn write_into(&self) {
        let path = self.weights();
        let before = std::fs::metadata(&path).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut bytes = vec![0; 8_000];
        let at = before.len() - bytes.len() as u64;
        file.read_exact_at(&mut bytes, at).unwrap();
        // The signs of all floats.
        bytes.iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
        file.write_all_at(&bytes, at).unwrap();
        File::set_modified(&file, before.modified().unwrap()).unwrap();
    }

    /// A copy of the model, whose weights are others, under another name.
    fn other_model(&self, name: &str) {
        self.copy(name);
        self.write_into();
        std::fs::rename(self.weights(), self.path().join(name).join("model.safetensors")).unwrap();
        std::fs::copy(self.path().join("kept"), self.weights()).unwrap();
    }

    fn copy(&self, name: &str) {
        let target = self.path().join(name);
        std::fs::create_dir(&target).unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(self.path().join("model").join(file), target.join(file)).unwrap();
        }
        std::fs::copy(self.weights(), self.path().join("kept")).unwrap();
    }

    /// Another model that says of itself which space it was made for.
    fn student(&self, teacher: Option<&EmbeddingSpace>) {
        if !self.path().join("student").exists() {
            self.other_model("student");
        }
        let config = self.path().join("student/config.json");
        let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        fields["scalingnote"] = json!({ "teacher": teacher });
        std::fs::write(config, fields.to_string()).unwrap();
        self.write("student.toml", &pipeline().replace("[encode]", &format!("{STUDENT}[encode]")));
    }

    async fn tower(&self, model: &str) -> Tower {
        let mut options = self.context("p.toml", Arc::new(Silent)).pipeline.tower;
        options.model = model.to_owned();
        let silent: Arc<dyn Reporter> = Arc::new(Silent);
        Tower::resolve(&options, self.path(), &silent).await.unwrap()
    }

    fn context(&self, file: &str, reporter: Arc<dyn Reporter>) -> RunContext {
        let pipeline = resolve(&self.path().join(file), [], &[]).unwrap().pipeline;
        let root = Root::open(&pipeline.publish.root).unwrap();
        RunContext { pipeline, root, reporter, cancel: Cancel::new() }
    }

    /// A run in which `happens` happens once, when `when` is told.
    fn run_while(&self, when: fn(&Event) -> bool, happens: impl Fn(&Self)) -> Result<RunReport> {
        std::thread::scope(|scope| {
            let (told, heard) = std::sync::mpsc::channel::<std::sync::mpsc::Sender<()>>();
            let hook =
                Arc::new(Hook { when, done: AtomicBool::new(false), told: Mutex::new(told) });
            let ctx = self.context("p.toml", hook);
            let running = scope.spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let options = RunOptions { attempts: 1, ..RunOptions::default() };
                runtime.block_on(async { exec::run(&ctx, &options).await })
            });
            if let Ok(back) = heard.recv() {
                happens(self);
                back.send(()).unwrap();
            }
            running.join().unwrap()
        })
    }

    fn parts(&self) -> Vec<String> {
        let folder = self.path().join("root/embeddings");
        if !folder.exists() {
            return Vec::new();
        }
        walk(&folder).into_iter().filter(|file| file.ends_with(".parquet")).collect()
    }

    async fn newest(&self) -> Option<Manifest> {
        let root = Root::open(self.path().join("root").to_str().unwrap()).unwrap();
        snapshot::newest(&root).await.unwrap()
    }

    /// Commits the newest content again with another query tower, as no run does.
    async fn admit(&self, tower: QueryTower) -> Result<snapshot::CommitOutcome> {
        let root = Root::open(self.path().join("root").to_str().unwrap()).unwrap();
        let newest = self.newest().await.unwrap();
        let mut content = newest.content.clone();
        content.query_towers = vec![tower];
        snapshot::commit(&root, Some(&newest), content, Vec::new(), Provenance::default()).await
    }
}

/// Stops the run at an event until something has happened.
struct Hook {
    when: fn(&Event) -> bool,
    done: AtomicBool,
    told: Mutex<std::sync::mpsc::Sender<std::sync::mpsc::Sender<()>>>,
}

impl Reporter for Hook {
    fn event(&self, event: Event) {
        if (self.when)(&event) && !self.done.swap(true, Ordering::AcqRel) {
            let (back, wait) = std::sync::mpsc::channel();
            self.told.lock().unwrap().send(back).unwrap();
            wait.recv().unwrap();
        }
    }
}

fn planned(event: &Event) -> bool {
    matches!(event, Event::StageFinished { stage: Stage::Prepare, .. })
}

fn part_stored(event: &Event) -> bool {
    matches!(event, Event::StageFinished { stage: Stage::Encode, .. })
}

#[track_caller]
fn refused(outcome: Result<RunReport>, piece: &str) -> Error {
    let error = outcome.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    assert!(error.to_string().contains(piece), "{error}");
    error
}

/// Published, with the model's own vectors.
async fn assert_right(place: &Place, encoded: u64) {
    let report = json_of(place.path(), "run p.toml --json");
    assert_eq!(report["outcome"], json!({"result": "published", "snapshot": 1}), "{report}");
    assert_eq!(report["reuse"]["encoded"], encoded, "{report}");
    let verified = json_of(place.path(), "snapshot verify root --json");
    assert_eq!(verified["query_towers"][0]["result"], "fits", "{verified}");
    let cosine = verified["sample"]["least_cosine"].as_f64().unwrap();
    assert!(cosine > 0.99999, "{verified}");
}

#[tokio::test]
async fn weights_written_into_between_hashing_and_loading_are_not_loaded() {
    let place = Place::new();
    let outcome = place.run_while(planned, Place::write_into);
    refused(outcome, "model.safetensors was written into after it was hashed");
    assert!(place.parts().is_empty() && place.newest().await.is_none());
    place.write_into();
    assert_right(&place, 20).await;
}

#[tokio::test]
async fn a_file_that_takes_the_weights_name_is_not_mixed_in() {
    let place = Place::new();
    place.other_model("other");
    let outcome = place.run_while(planned, |place| {
        std::fs::rename(place.path().join("other/model.safetensors"), place.weights()).unwrap();
    });
    // What was hashed was encoded with; queries would be encoded with what is there now.
    refused(outcome, "changed while they were in use");
    assert!(!place.parts().is_empty() && place.newest().await.is_none());
    std::fs::rename(place.path().join("kept"), place.weights()).unwrap();
    assert_right(&place, 0).await;
}

#[tokio::test]
async fn weights_written_into_after_the_first_parts_are_not_admitted() {
    let place = Place::new();
    let outcome = place.run_while(part_stored, Place::write_into);
    refused(outcome, "changed while they were in use");
    assert!(place.parts().len() > 1 && place.newest().await.is_none());
    place.write_into();
    assert_right(&place, 0).await;
}

#[test]
fn an_untouched_run_publishes() {
    let place = Place::new();
    let report = place.run_while(part_stored, |_| ()).unwrap();
    assert_eq!(report.outcome, Outcome::Published { snapshot: 1 });
}

/// Planned and encoded with one tower, published with the pipeline of another.
#[test]
fn a_plan_is_published_by_the_tower_that_made_it() {
    let place = Place::new();
    place.other_model("other");
    let path = place.path();
    let edited = pipeline().replace("model = \"model\"", "model = \"other\"");
    place.write("edited.toml", &edited);
    place.write(
        "prompted.toml",
        &pipeline().replace("max_tokens = 32", "max_tokens = 32\nprompt_prefix = \"doc \""),
    );
    let brief = json_of(path, "plan p.toml --brief");
    let plan = brief["plan_key"].as_str().unwrap();
    for stage in ["encode", "calibrate", "build"] {
        expect(path, 0, &format!("task p.toml --plan {plan} --stage {stage}"));
    }
    for (pipeline, pieces) in [
        ("edited.toml", ["/model (space ", "/other (space ", "other weights"]),
        ("prompted.toml", ["/model (space ", "/model (space ", "other prompt_prefix"]),
    ] {
        let (_, said) = expect(path, 2, &format!("publish {pipeline} --plan {plan}"));
        for piece in pieces.into_iter().chain(["do not mix", "plan again"]) {
            assert!(said.contains(piece), "{piece}: {said}");
        }
    }
    assert!(!path.join("root/snapshots").exists());
    expect(path, 0, &format!("publish p.toml --plan {plan}"));
    expect(path, 0, "search root hello");
}

/// An envelope names its space: files that changed under its tower's name are refused.
#[test]
fn a_task_refuses_another_tower_than_its_envelopes() {
    let place = Place::new();
    let path = place.path();
    let brief = json_of(path, "plan p.toml --brief");
    let plan = brief["plan_key"].as_str().unwrap();
    place.write_into();
    let (_, said) = expect(path, 1, &format!("task p.toml --plan {plan} --stage encode"));
    assert!(said.contains("changed under the same name"), "{said}");
    assert!(place.parts().is_empty());
    place.write_into();
    expect(path, 0, &format!("task p.toml --plan {plan} --stage encode"));
}

#[tokio::test]
async fn verify_looks_at_the_query_towers() {
    let place = Place::new();
    let path = place.path();
    let space = place.tower("model").await.space(Digest256::of(b""));
    // The student of a teacher with a prompt of its own, as the LLM that queries came from.
    let teacher = EmbeddingSpace { prompt_prefix: "query: ".to_owned(), ..space.clone() };
    place.student(Some(&teacher));
    expect(path, 0, "run student.toml");
    let admitted = place.newest().await.unwrap().content.query_towers.remove(0);
    assert_eq!((admitted.kind.as_str(), &admitted.teacher), ("distilled", &Some(teacher)));
    let looked = |code: i32, result: &str, piece: &str| {
        let (stdout, stderr) = expect(path, code, "snapshot verify root --json");
        let verified: Value = serde_json::from_str(&stdout).unwrap();
        let tower = &verified["query_towers"][0];
        assert_eq!(tower["result"], result, "{verified}");
        assert!(tower["why"].as_str().unwrap_or_default().contains(piece), "{verified}");
        assert_eq!(verified["sample"].is_null(), code != 0, "{verified}");
        if code != 0 {
            assert!(stderr.contains("do not fit its vectors"), "{stderr}");
        }
    };
    looked(0, "fits", "");
    let (said, _) = expect(path, 0, "snapshot verify root");
    assert!(said.contains("student (distilled) fits its vectors"), "{said}");
    // Its files name no tower: the snapshot knows it. Another one: somebody is wrong.
    place.student(None);
    looked(0, "fits", "");
    place.student(Some(&EmbeddingSpace { weights: Digest256::of(b"another"), ..space.clone() }));
    looked(1, "wrong", "distilled from another tower");
    std::fs::rename(path.join("student"), path.join("elsewhere")).unwrap();
    looked(0, "not-checked", "student");
    let (said, _) = expect(path, 0, "snapshot verify root");
    assert!(said.contains("was not checked"), "{said}");

    // What release 0.1.0 published where the weights changed under a run.
    place.other_model("other");
    let other = place.tower("other").await;
    let options: TowerOptions = other.options().clone();
    let mixed = QueryTower {
        fingerprint: other.fingerprint().unwrap(),
        kind: "document-tower".to_owned(),
        options: serde_json::to_value(&options).unwrap(),
        teacher: None,
        adapted: None,
    };
    place.admit(mixed.clone()).await.unwrap();
    looked(1, "wrong", "(other weights)");
    // A tower that names another teacher is not committed at all.
    let teacher = EmbeddingSpace { layers: Some(1), ..space };
    let foreign = QueryTower { teacher: Some(teacher), ..mixed };
    let error = place.admit(foreign).await.unwrap_err();
    assert!(
        error.to_string().contains("made for another tower")
            && error.to_string().contains("(other layers)"),
        "{error}"
    );
}

#[test]
fn a_query_tower_that_names_no_teacher_is_admitted_with_a_warning() {
    let place = Place::new();
    let path = place.path();
    place.student(None);
    let (_, said) = expect(path, 0, "run student.toml");
    assert!(said.contains("name no document tower"), "{said}");
    let verified = json_of(path, "snapshot verify root --json");
    let tower = &verified["query_towers"][0];
    assert_eq!(tower["result"], "not-checked", "{verified}");
    assert!(tower["why"].as_str().unwrap().contains("name no tower"), "{verified}");
    // Vectors of another size cannot be meant.
    let cut = STUDENT.replace("max_tokens", "dimensions = 8\nmax_tokens");
    place.write("cut.toml", &pipeline().replace("[encode]", &format!("{cut}[encode]")));
    let (_, said) = expect(path, 2, "run cut.toml");
    assert!(said.contains("8 dimensions and the document tower 32"), "{said}");
}
