//! The query tower adapts to the corpus: a tiny LLM, a tiny student that was distilled from it on other texts, and
//! notes of a few sentences.

mod purged;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use scalingnote::observe::{Reporter, Silent};
use scalingnote::search::{SnapshotWatcher, TowerChoice, WatchOptions};
use scalingnote::store::{Border, Root, border, hash_file};
use scalingnote::tower::DeviceSpec;

use crate::fixture::files::walk;
use crate::fixture::program::{expect, json_of, program};
use crate::fixture::training::{self, DISTILL_BERT, folder, write_encoder};

const SECTIONS: &str = r#"[query.tower]
model = "student"
pooling = "mean"
max_tokens = 48
[query.adapt]
max_texts = 600
steps = 30
batch = 32
learning_rate = 3e-3
[encode]
devices = ["cpu:1"]
[index]
shards = 2
[gates]
recall_min = 0.5
max_count_drop_percent = 60.0
"#;

/// Notes, a model, a student, and a pipeline over them.
struct Place {
    folder: tempfile::TempDir,
    notes: BTreeMap<u32, String>,
}

/// A word of some of these letters.
fn word(random: &mut StdRng, letters: &[u8]) -> String {
    let length = random.random_range(3..7);
    (0..length).map(|_| char::from(letters[random.random_range(0..letters.len())])).collect()
}

/// A title and three sentences of the note's own words, which are of its own few letters: the tiny LLM tells notes by
/// them.
fn note(random: &mut StdRng) -> String {
    let letters: Vec<u8> = (0..4).map(|_| random.random_range(b'a'..=b'z')).collect();
    let own: Vec<String> = (0..6).map(|_| word(random, &letters)).collect();
    let mut sentence = |words: usize| {
        let words: Vec<&str> =
            (0..words).map(|_| own[random.random_range(0..own.len())].as_str()).collect();
        words.join(" ")
    };
    let title = sentence(2);
    format!("{title}\n{}. {}. {}.", sentence(4), sentence(5), sentence(4))
}

impl Place {
    /// 80 notes, and a student of a few steps.
    fn new() -> Self {
        let folder = folder();
        let path = folder.path();
        write_encoder(&path.join("encoder"));
        let recipe = DISTILL_BERT
            .replace("steps = 20", "steps = 4")
            .replace("max_tokens = 32", "max_tokens = 64")
            .replace("train_embeddings = true\n", "");
        std::fs::write(path.join("distill.toml"), recipe).unwrap();
        expect(path, 0, "distill distill.toml --out run");
        std::fs::rename(path.join("run/student"), path.join("student")).unwrap();
        let mut random = StdRng::seed_from_u64(4);
        let notes = (0..80).map(|id| (id, note(&mut random))).collect();
        let place = Self { folder, notes };
        place.write();
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The notes and the pipeline as they are now.
    fn write(&self) {
        let line = |(id, text): (&u32, &String)| json!({"_id": id, "text": text}).to_string();
        let lines: Vec<String> = self.notes.iter().map(line).collect();
        std::fs::write(self.path().join("set/corpus.jsonl"), lines.join("\n")).unwrap();
        let file = training::pipeline("model", "", SECTIONS)
            .replace("max_tokens = 32", "max_tokens = 128");
        std::fs::write(self.path().join("p.toml"), file).unwrap();
    }

    /// Changes the notes with these ids.
    fn change(&mut self, ids: std::ops::Range<u32>) {
        let mut random = StdRng::seed_from_u64(u64::from(ids.start) + 100);
        for id in ids {
            self.notes.insert(id, note(&mut random));
        }
        self.write();
    }

    fn run(&self) -> Value {
        json_of(self.path(), "run p.toml --json --quiet")
    }

    /// The newest snapshot's query tower.
    fn tower(&self) -> Value {
        json_of(self.path(), "snapshot show root --json")["content"]["query_towers"][0].clone()
    }

    fn towers(&self) -> Vec<String> {
        let folder = self.path().join("root/towers");
        if folder.exists() { walk(&folder) } else { Vec::new() }
    }

    fn hash(&self, key: &str) -> String {
        hash_file(&self.path().join("root").join(key)).unwrap().to_hex()
    }
}

fn outcome(report: &Value) -> &str {
    report["query_tower"]["outcome"].as_str().unwrap_or("none")
}

fn fingerprint(tower: &Value) -> String {
    tower["fingerprint"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_query_tower_adapts_once_and_is_found_in_the_root() {
    let mut place = Place::new();
    let shipped = place.path().join("student");
    let report = place.run();
    assert_eq!(outcome(&report), "adapted", "{report}");
    let judged = &report["query_tower"]["judged"];
    let ndcg = |who: &str| judged[who]["ndcg_at_10"].as_f64().unwrap();
    assert!(ndcg("now") > ndcg("before") && ndcg("llm") > 0.15, "{judged}");
    assert_eq!(report["query_tower"]["steps"], 30);
    let first = place.tower();
    assert_eq!(first["kind"], "distilled");
    assert_eq!(first["adapted"]["files"].as_array().unwrap().len(), 4, "{first}");
    assert_ne!(first["fingerprint"], first["adapted"]["base"]["fingerprint"]);

    // Wherever the shipped one is, the adapted one is in the root: for a search, a check, a server.
    let away = place.path().join("away");
    std::fs::rename(&shipped, &away).unwrap();
    let query = place.notes[&7].split(['\n', '.']).nth(1).unwrap().trim().to_owned();
    let found = program(place.path()).args(["search", "root", &query, "--json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["query_tower"], first["fingerprint"], "{found}");
    assert_eq!(found["hits"].as_array().unwrap().len(), 10, "{found}");
    let verified = json_of(place.path(), "snapshot verify root --json");
    assert_eq!(verified["query_towers"][0]["result"], "fits", "{verified}");
    let root = Root::open(place.path().join("root").to_str().unwrap()).unwrap();
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let watcher = SnapshotWatcher::new(
        root,
        WatchOptions {
            every: Duration::from_secs(600),
            cache: place.path().join("cache"),
            in_place: false,
            tower: Some(TowerChoice {
                model: None,
                base_dir: "/nowhere".into(),
                device: DeviceSpec::Cpu { threads: 1 },
                reporter,
            }),
            first: None,
        },
    )
    .unwrap();
    assert!(watcher.look().await.unwrap());
    let serving = watcher.current().unwrap();
    let encoder = serving.encoder.as_ref().unwrap();
    assert_eq!(encoder.tower().fingerprint.to_hex(), fingerprint(&first));
    assert_eq!(encoder.encode(&query).unwrap().len(), 32);
    std::fs::rename(&away, &shipped).unwrap();

    // Nothing changed: nothing is done. A few notes changed: the tower is kept as it is.
    let again = place.run();
    assert_eq!(again["outcome"]["result"], "nothing-to-do", "{again}");
    assert_eq!(outcome(&again), "none", "{again}");
    place.change(0..6);
    let few = place.run();
    assert_eq!(few["outcome"], json!({"result": "published", "snapshot": 2}), "{few}");
    assert_eq!(outcome(&few), "kept", "{few}");
    let new = few["query_tower"]["new_texts"].as_u64().unwrap();
    assert!(new > 0 && new * 5 <= few["query_tower"]["texts"].as_u64().unwrap(), "{few}");
    assert_eq!(place.tower(), first);

    // Half of them changed: it learns again, from where it was.
    place.change(0..40);
    let many = place.run();
    assert_eq!(outcome(&many), "adapted", "{many}");
    let before = many["query_tower"]["judged"]["before"]["ndcg_at_10"].as_f64().unwrap();
    assert!(before > ndcg("before"), "it begins as yesterday's: {many}");
    let second = place.tower();
    assert_ne!(second["fingerprint"], first["fingerprint"]);
    assert_eq!(second["adapted"]["base"], first["adapted"]["base"]);

    // gc takes the tower that no snapshot names any more, and leaves the other.
    let (old, new) = (fingerprint(&first), fingerprint(&second));
    let lies = |tower: &str| place.towers().iter().any(|key| key.contains(&tower[..16]));
    assert!(lies(&old) && lies(&new));
    drop(serving);
    watcher.close().await;
    let (said, _) =
        expect(place.path(), 0, "snapshot gc root --keep 1 --grace-hours 0 --runs-days 0");
    assert!(!lies(&old) && lies(&new), "{said}\n{:?}", place.towers());
    expect(place.path(), 0, "snapshot verify root");

    // Without the section the shipped one answers again.
    let pipeline = std::fs::read_to_string(place.path().join("p.toml")).unwrap();
    let (head, rest) = pipeline.split_once("[query.adapt]\n").unwrap();
    let tail = &rest[rest.find("[encode]").unwrap()..];
    std::fs::write(place.path().join("plain.toml"), format!("{head}{tail}")).unwrap();
    expect(place.path(), 0, "run plain.toml");
    assert_eq!(place.tower(), first["adapted"]["base"]);
}

/// A snapshot as time would have left it: with twelve of thirty steps to take.
fn leave_steps(place: &Place) {
    let root = place.path().join("root");
    let number = root.join("snapshots/00000000000000000001.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&number).unwrap()).unwrap();
    let adapted = &mut manifest["content"]["query_towers"][0]["adapted"];
    adapted["steps_left"] = json!(12);
    let files = adapted["files"].as_array_mut().unwrap().iter_mut();
    let mut texts = files.filter(|file| file["path"].as_str().unwrap().ends_with(".texts.json"));
    let file = texts.next().unwrap();
    let path = root.join(file["path"].as_str().unwrap());
    let mut read: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    read["steps"] = json!(18);
    std::fs::write(&path, read.to_string()).unwrap();
    file["size"] = json!(read.to_string().len());
    file["sha256"] = json!(hash_file(&path).unwrap().to_hex());
    let content = serde_json::from_value(manifest["content"].clone()).unwrap();
    let hash = scalingnote::snapshot::content_hash(&content).unwrap().to_hex();
    manifest["content_hash"] = json!(hash);
    std::fs::write(&number, manifest.to_string()).unwrap();
}

#[test]
fn steps_that_time_left_are_taken_though_no_note_changed() {
    let place = Place::new();
    place.run();
    leave_steps(&place);
    let (said, _) = expect(place.path(), 0, "plan p.toml");
    for piece in ["the query tower is adapted: at most 600 texts", "an earlier run left 12)"] {
        assert!(said.contains(piece), "no {piece:?} in {said}");
    }
    let rest = place.run();
    assert_eq!(rest["outcome"], json!({"result": "published", "snapshot": 2}), "{rest}");
    assert_eq!((outcome(&rest), &rest["query_tower"]["steps"]), ("adapted", &json!(12)), "{rest}");
    assert_eq!(rest["query_tower"]["new_texts"], 0, "{rest}");
    // All of them are taken now.
    assert_eq!(place.tower()["adapted"].get("steps_left"), None);
    assert_eq!(place.run()["outcome"]["result"], "nothing-to-do");
}

/// What a task by its envelope stores is what a run stores, byte for byte.
#[test]
fn a_task_adapts_as_a_run_does() {
    let place = Place::new();
    place.run();
    let towers = |root: &str| -> BTreeMap<String, String> {
        let folder = place.path().join(root).join("towers");
        let files = walk(&folder).into_iter().map(PathBuf::from);
        files
            .filter(|file| !file.to_string_lossy().ends_with(".task.json"))
            .map(|file| {
                let key = file.strip_prefix(&folder).unwrap_or(&file).display().to_string();
                (key, hash_file(&folder.join(&file)).unwrap().to_hex())
            })
            .collect()
    };
    let set = "--set publish.root=tasks";
    let brief = json_of(place.path(), &format!("plan p.toml {set} --brief"));
    assert_eq!(brief["adapt_tasks"], 1, "{brief}");
    let plan = brief["plan_key"].as_str().unwrap();
    let task = |stage: &str| format!("task p.toml {set} --plan {plan} --stage {stage}");
    // Before the notes are encoded there is nothing to judge it by.
    let (_, said) = expect(place.path(), 75, &task("adapt"));
    assert!(said.contains("run that task first"), "{said}");
    for stage in ["encode", "calibrate", "build"] {
        expect(place.path(), 0, &task(stage));
    }
    let (_, said) = expect(place.path(), 75, &format!("publish p.toml {set} --plan {plan}"));
    assert!(said.contains("adapt-"), "{said}");
    let (_, said) = expect(place.path(), 0, &task("adapt"));
    for piece in ["distill: the LLM read ", " to learn from, ", " queries to do"] {
        assert!(said.contains(piece), "no {piece:?} in {said}");
    }
    let stored = towers("tasks");
    // Again: the receipt is there.
    expect(place.path(), 0, &task("adapt"));
    let report = json_of(place.path(), &format!("publish p.toml {set} --plan {plan} --json"));
    assert_eq!(outcome(&report), "adapted", "{report}");
    assert_eq!(stored.len(), 4, "{stored:?}");
    assert_eq!(stored, towers("root"));
}

#[test]
fn a_run_killed_while_it_adapts_is_ended_by_the_next() {
    let undisturbed = Place::new();
    undisturbed.run();
    let expected = undisturbed.tower();
    for (border, nth) in [
        (Border::TowerFile, 1),
        (Border::TowerFile, 4),
        (Border::AdaptReceipt, 1),
        (Border::BuildReceipt, 1),
    ] {
        let at = format!("{}:{nth}", border.name());
        let place = Place::new();
        let mut command = program(place.path());
        command.args(["run", "p.toml", "--json", "--quiet"]).env(border::FAIL_AT, &at);
        let killed = command.output().unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{at}: {killed:?}");
        assert!(!place.path().join("root/snapshots").exists(), "{at}");
        let left: BTreeMap<String, String> = place
            .towers()
            .into_iter()
            .map(|key| (key.clone(), place.hash(&key_of(&key))))
            .collect();
        let report = place.run();
        assert_eq!(report["outcome"]["result"], "published", "{at}: {report}");
        assert_eq!(outcome(&report), "adapted", "{at}: {report}");
        assert_eq!(place.tower()["adapted"]["files"], expected["adapted"]["files"], "{at}");
        for (key, hash) in left {
            assert_eq!(place.hash(&key_of(&key)), hash, "{at}: {key} was touched");
        }
    }
}

/// The key of a file below `root/towers`.
fn key_of(file: &str) -> String {
    let file = file.rsplit_once("towers/").map_or(file, |(_, file)| file);
    format!("towers/{file}")
}

#[test]
fn a_purge_takes_the_tower_that_read_the_note() {
    let place = Place::new();
    place.run();
    let adapted = place.tower();
    let purged = json_of(place.path(), "purge root --note-id i:7 --json");
    assert_eq!(purged["left"], json!([]), "{purged}");
    let gone = purged["deleted"].as_array().unwrap().iter().map(|key| key.as_str().unwrap());
    let gone: Vec<&str> = gone.filter(|key| key.starts_with("towers/")).collect();
    assert_eq!(gone.len(), 5, "four files and the receipt: {gone:?}");
    assert!(place.towers().is_empty(), "{:?}", place.towers());
    // The shipped one answers until the next run adapts it to what is left.
    assert_eq!(place.tower(), adapted["adapted"]["base"]);
    expect(place.path(), 0, "search root hello");
    let report = place.run();
    assert_eq!(outcome(&report), "adapted", "{report}");
    let now = place.tower();
    assert_ne!(now["fingerprint"], adapted["fingerprint"]);
    let texts = place.towers().into_iter().find(|key| key.ends_with(".texts.json")).unwrap();
    let texts = std::fs::read_to_string(place.path().join("root").join(key_of(&texts))).unwrap();
    assert!(!texts.contains("\"i:7\"") && texts.contains("\"i:8\""), "{texts}");
}

#[test]
fn a_damaged_tower_is_taken_out_and_adapted_again() {
    let place = Place::new();
    place.run();
    let adapted = place.tower();
    let weights = format!("towers/{}/model.safetensors", &fingerprint(&adapted)[..16]);
    std::fs::write(place.path().join("root").join(&weights), "other").unwrap();
    let (_, said) = expect(place.path(), 1, "snapshot verify root");
    assert!(said.contains(&weights) && said.contains("snapshot repair"), "{said}");
    let (said, _) = expect(place.path(), 0, "snapshot repair root");
    assert!(said.contains(&weights) && said.contains("adapts the query tower again"), "{said}");
    assert!(place.towers().is_empty(), "{:?}", place.towers());
    let (_, said) = expect(place.path(), 1, "search root hello");
    assert!(said.contains("adapts the query tower again"), "{said}");
    assert_eq!(outcome(&place.run()), "adapted");
    assert_eq!(place.tower(), adapted);
    expect(place.path(), 0, "snapshot verify root");
}

#[test]
fn a_copy_of_the_snapshot_has_the_adapted_tower() {
    let place = Place::new();
    place.run();
    let adapted = place.tower();
    let copy = |flag: &str| {
        json_of(place.path(), &format!("snapshot copy root copied {flag} --json --quiet"))
    };
    let dry = copy("--dry-run");
    assert!(!place.path().join("copied/towers").exists());
    let first = copy("");
    assert_eq!((&first["snapshot"], &first["kept_files"]), (&json!(1), &json!(0)), "{first}");
    assert_eq!(first["sent_bytes"], dry["sent_bytes"]);
    let again = copy("");
    assert_eq!((&again["already"], &again["sent_files"]), (&json!(true), &json!(0)), "{again}");
    // Files that no snapshot names yet, as of a copy that was stopped, are not sent again.
    let snapshots = place.path().join("copied/snapshots");
    std::fs::remove_dir_all(snapshots).unwrap();
    let rest = copy("");
    assert_eq!((&rest["sent_files"], &rest["snapshot"]), (&json!(0), &json!(1)), "{rest}");
    assert_eq!(rest["kept_files"], first["sent_files"], "{rest}");

    // It needs neither the root that it came from nor the shipped tower.
    for name in ["root", "student"] {
        std::fs::rename(place.path().join(name), place.path().join(format!("{name}-away")))
            .unwrap();
    }
    let found = json_of(place.path(), "search copied hello --json");
    assert_eq!(found["query_tower"], adapted["fingerprint"], "{found}");
    let verified = json_of(place.path(), "snapshot verify copied --json");
    assert_eq!(verified["query_towers"][0]["result"], "fits", "{verified}");
    let purged = json_of(place.path(), "purge copied --note-id i:7 --json");
    assert_eq!(purged["left"], json!([]), "{purged}");
    let towers = place.path().join("copied/towers");
    assert!(!towers.exists() || walk(&towers).is_empty());
    let shown = json_of(place.path(), "snapshot show copied --json");
    assert_eq!(shown["content"]["query_towers"][0], adapted["adapted"]["base"], "{shown}");
    std::fs::rename(place.path().join("root-away"), place.path().join("root")).unwrap();
    let (_, said) = expect(place.path(), 3, "snapshot copy root copied");
    assert!(said.contains("purged from"), "{said}");
}

/// A good student whose files name a prompt that drowns what is asked: what it would be taught finds less.
#[test]
fn a_tower_that_would_find_less_is_not_published() {
    let place = Place::new();
    place.run();
    let adapted = fingerprint(&place.tower());
    let folder = place.path().join("root/towers").join(&adapted[..16]);
    let good = place.path().join("good");
    std::fs::create_dir(&good).unwrap();
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        std::fs::copy(folder.join(name), good.join(name)).unwrap();
    }
    let config = good.join("config.json");
    let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let teacher = &mut fields["scalingnote"]["teacher"];
    teacher["prompt_suffix"] = "z".repeat(90).into();
    teacher["max_tokens"] = 128.into();
    std::fs::write(config, fields.to_string()).unwrap();
    let set =
        "--set query.tower.model=good --set publish.root=other --set query.adapt.own_weight=0";
    let report = json_of(place.path(), &format!("run p.toml {set} --json --quiet"));
    let judged = &report["query_tower"]["judged"];
    let found = |who: &str| judged[who]["ndcg_at_10"].as_f64().unwrap();
    assert_eq!(outcome(&report), "refused", "{report}");
    assert!(found("now") < found("before"), "{judged}");
    // The notes are published with the tower as it was, and the next run does not try again.
    assert_eq!(report["outcome"], json!({"result": "published", "snapshot": 1}), "{report}");
    let shown = json_of(place.path(), "snapshot show other --json");
    let tower = &shown["content"]["query_towers"][0];
    assert_eq!((fingerprint(tower), tower.get("adapted")), (adapted, None), "{tower}");
    let (said, _) = expect(place.path(), 0, &format!("run p.toml {set}"));
    assert!(said.contains("nothing to do") && said.contains("it would find less"), "{said}");
    assert_eq!(walk(&place.path().join("other/towers")).len(), 1, "the receipt alone");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    for (edit, pieces) in [
        ("query.adapt.max_texts=3", vec!["query.adapt.max_texts", "16 to 1,000,000"]),
        ("query.adapt.minute=3", vec!["minutes"]),
        ("query.adapt.minutes=0", vec!["query.adapt.minutes", "at least 1"]),
        ("query.adapt.steps=0", vec!["query.adapt.steps", "at least 1"]),
        ("query.adapt.own_weight=-1.0", vec!["query.adapt.own_weight", "0 or more"]),
        ("query.adapt.score_weight=-1.0", vec!["query.adapt.score_weight", "0 or more"]),
        ("corpus.mode=delta", vec!["query.adapt", "corpus.mode = \"full\""]),
        ("query.tower.prompt_prefix=? ", vec!["a tower with a prompt cannot be adapted"]),
        ("query.tower.model=model", vec!["only an encoder"]),
    ] {
        let output = program(place.path()).args(["run", "p.toml", "--set", edit]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{edit}: {said}");
        for piece in pieces {
            assert!(said.contains(piece), "{edit}: no {piece:?} in {said}");
        }
    }
    let alone = std::fs::read_to_string(place.path().join("p.toml")).unwrap();
    let (head, rest) = alone.split_once("[query.tower]\n").unwrap();
    let tail = &rest[rest.find("[query.adapt]").unwrap()..];
    std::fs::write(place.path().join("p.toml"), format!("{head}{tail}")).unwrap();
    let (_, said) = expect(place.path(), 2, "run p.toml");
    assert!(said.contains("needs [query.tower]"), "{said}");
}
