//! A hub's model that no commit pins: what a push to its repository does to snapshots that are there, and to the next
//! run.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use scalingnote::snapshot::{self, Manifest, Provenance};
use scalingnote::store::Root;

use crate::fixture::http::Client;
use crate::fixture::program::program;
use crate::fixture::server::Served;
use crate::fixture::training::{self, folder};

fn pipeline() -> String {
    training::pipeline("org/tower", "", "")
}

/// A corpus, and the cache of a hub that is not asked, with one repository.
struct Hub(tempfile::TempDir);

impl Hub {
    fn new() -> Self {
        let hub = Self(folder());
        hub.write(&pipeline());
        hub
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, pipeline: &str) {
        std::fs::write(self.path().join("p.toml"), pipeline).unwrap();
    }

    fn repo(&self) -> PathBuf {
        self.path().join("hub/models--org--tower")
    }

    /// Pushes the model as it is, or with other weights, and gives the commit: `main` leads to it from now on.
    fn push(&self, digit: char, other_weights: bool) -> String {
        let commit: String = std::iter::repeat_n(digit, 40).collect();
        let target = self.repo().join("snapshots").join(&commit);
        std::fs::create_dir_all(&target).unwrap();
        std::fs::create_dir_all(self.repo().join("refs")).unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            let mut bytes = std::fs::read(self.path().join("model").join(file)).unwrap();
            if other_weights && file == "model.safetensors" {
                let at = bytes.len() - 8_000;
                bytes[at..].iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
            }
            std::fs::write(target.join(file), bytes).unwrap();
        }
        std::fs::write(self.repo().join("refs/main"), &commit).unwrap();
        commit
    }

    fn command(&self) -> Command {
        let mut command = program(self.path());
        command.env("HF_HUB_CACHE", self.path().join("hub")).env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs a command that must end with `code`; gives stdout and stderr.
    #[track_caller]
    fn expect(&self, code: i32, line: &[&str]) -> (String, String) {
        let output = self.command().args(line).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
        assert_eq!(output.status.code(), Some(code), "{line:?}\n{out}\n{err}");
        (out, err)
    }

    /// A run whose report has this outcome and this many encoded texts.
    #[track_caller]
    fn run(&self, more: &[&str], outcome: Value, encoded: u64) -> Value {
        let (out, _) = self.expect(0, &[&["run", "p.toml", "--json"], more].concat());
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["outcome"], outcome, "{report}");
        assert_eq!(report["reuse"]["encoded"], encoded, "{report}");
        report
    }

    fn root(&self) -> Root {
        Root::open(self.path().join("root").to_str().unwrap()).unwrap()
    }

    async fn newest(&self) -> Manifest {
        snapshot::newest(&self.root()).await.unwrap().unwrap()
    }

    /// Spaces that anything was encoded for.
    fn spaces(&self) -> usize {
        std::fs::read_dir(self.path().join("root/embeddings")).unwrap().count()
    }
}

fn published(snapshot: u64) -> Value {
    json!({"result": "published", "snapshot": snapshot})
}

fn nothing(snapshot: u64) -> Value {
    json!({"result": "nothing-to-do", "snapshot": snapshot})
}

#[tokio::test]
async fn a_push_leaves_what_is_published_alone_and_is_nobodys_decision() {
    let hub = Hub::new();
    let first = hub.push('a', false);
    hub.run(&[], published(1), 20);
    let manifest = hub.newest().await;
    assert_eq!(manifest.content.query_towers[0].options["revision"], first);
    assert_eq!(manifest.content.query_towers[0].options["model"], "org/tower");
    assert_eq!(manifest.provenance.tower(), Some(("org/tower".to_owned(), first.clone())));

    // A push of a README and the like changes nothing for anybody.
    hub.push('b', false);
    hub.expect(0, &["search", "root", "hello"]);
    hub.run(&[], nothing(1), 0);

    // A push of weights: what is published is searched with its own, by the plan's own commit it is verified.
    let second = hub.push('c', true);
    hub.expect(0, &["search", "root", "hello"]);
    hub.expect(0, &["snapshot", "verify", "root"]);
    // The next run does not encode everything for it unasked, and says what to write.
    let (_, said) = hub.expect(3, &["run", "p.toml"]);
    for piece in [first.as_str(), second.as_str(), "20 texts", "--override drift", "[next.tower]"] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    hub.expect(3, &["run", "p.toml", "--plan-only"]);
    // A command that cannot override anything names no flag for it.
    let (_, said) = hub.expect(3, &["plan", "p.toml", "--brief"]);
    assert!(said.contains("[next.tower]") && !said.contains("--override"), "{said}");
    let (out, _) = hub.expect(0, &["plan", "p.toml"]);
    assert!(out.contains("warning: the tower org/tower was pushed to since snapshot 1"), "{out}");
    assert_eq!((hub.newest().await.number, hub.spaces()), (1, 1));

    // To stay is to pin.
    hub.write(&pipeline().replace("pooling", &format!("revision = \"{first}\"\npooling")));
    hub.run(&[], nothing(1), 0);
    // To go on is a person's decision, which the manifest keeps.
    hub.write(&pipeline());
    hub.run(&["--override", "drift", "--reason", "it is better"], published(2), 20);
    let manifest = hub.newest().await;
    let gate = manifest.provenance.gates.iter().find(|gate| gate.gate == "drift").unwrap();
    assert_eq!((gate.passed, gate.overridden.as_deref()), (false, Some("it is better")));
    assert_eq!(manifest.content.query_towers[0].options["revision"], second);
    hub.run(&[], nothing(2), 0);
    // Another commit that is pinned is a decision, too.
    let third = hub.push('d', false);
    hub.write(&pipeline().replace("pooling", &format!("revision = \"{third}\"\npooling")));
    hub.run(&[], published(3), 0);
    // Also where it makes the same vectors.
    let fourth = hub.push('e', false);
    hub.write(&pipeline().replace("pooling", &format!("revision = \"{fourth}\"\npooling")));
    hub.run(&[], published(4), 0);
    assert_eq!(hub.newest().await.content.query_towers[0].options["revision"], fourth);
}

/// A service that starts after a push opens what is published.
#[tokio::test]
async fn a_service_started_after_a_push_answers() {
    let hub = Hub::new();
    hub.push('a', false);
    hub.run(&[], published(1), 20);
    hub.push('b', true);
    let line = ["serve", "root", "--bind", "127.0.0.1:0"];
    let served = Served::start(hub.command().args(line));
    let answer = Client::connect(served.address).await.get("/search?text=hello&k=3").await;
    assert!(answer.status == 200 && answer.body.contains("\"hits\":[{"), "{answer:?}");
}

/// A plan's tasks are of the commit that was planned, whatever is pushed before they run.
#[tokio::test]
async fn a_plan_is_executed_and_published_by_its_own_commit() {
    let hub = Hub::new();
    let first = hub.push('a', false);
    let (out, _) = hub.expect(0, &["plan", "p.toml", "--brief"]);
    let brief: Value = serde_json::from_str(&out).unwrap();
    let plan = brief["plan_key"].as_str().unwrap();
    hub.push('b', true);
    for stage in ["encode", "calibrate", "build"] {
        hub.expect(0, &["task", "p.toml", "--plan", plan, "--stage", stage]);
    }
    let (_, said) = hub.expect(2, &["publish", "p.toml", "--plan", plan]);
    assert!(said.contains("other weights") && said.contains("plan again"), "{said}");
    hub.write(&pipeline().replace("pooling", &format!("revision = \"{first}\"\npooling")));
    hub.expect(0, &["publish", "p.toml", "--plan", plan]);
    hub.expect(0, &["snapshot", "verify", "root"]);
}

/// Release 0.1.0 named no commit: the next run writes it down, and encodes nothing for that.
#[tokio::test]
async fn a_snapshot_without_a_commit_gets_one() {
    let hub = Hub::new();
    let first = hub.push('a', false);
    hub.run(&[], published(1), 20);
    let newest = hub.newest().await;
    let mut content = newest.content.clone();
    content.query_towers[0].options["revision"] = Value::Null;
    let old = Provenance::default();
    snapshot::commit(&hub.root(), Some(&newest), content, Vec::new(), old).await.unwrap();
    let second = hub.push('b', true);
    let (_, said) = hub.expect(1, &["search", "root", "hello"]);
    assert!(said.contains("names no commit") && said.contains(&second), "{said}");
    assert!(said.contains("hint: name the tower's files with --model"), "{said}");
    // It has no such flag.
    let (_, said) = hub.expect(1, &["explain", "p.toml", "d3", "--query", "hello"]);
    assert!(said.contains("names no commit") && !said.contains("--model"), "{said}");
    hub.write(&pipeline().replace("pooling", &format!("revision = \"{first}\"\npooling")));
    hub.run(&[], published(3), 0);
    hub.write(&pipeline());
    hub.expect(0, &["search", "root", "hello"]);
}

#[test]
fn config_check_says_what_to_pin() {
    let hub = Hub::new();
    let (said, _) = hub.expect(0, &["config", "check", "p.toml"]);
    assert!(said.contains("org/tower is not pinned") && said.contains("<commit>"), "{said}");
    let first = hub.push('a', false);
    let line = format!("revision = \"{first}\"");
    let (said, _) = hub.expect(0, &["config", "check", "p.toml"]);
    assert!(said.contains("write into [tower]:") && said.contains(&line), "{said}");
    hub.write(&pipeline().replace("pooling", &format!("{line}\npooling")));
    let (said, _) = hub.expect(0, &["config", "check", "p.toml"]);
    assert!(!said.contains("pinned"), "{said}");
}
