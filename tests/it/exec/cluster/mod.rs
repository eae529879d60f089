//! Runs on a Ballista cluster of real processes (feature `cluster`): the same content as in this process, whichever
//! process is killed.

mod evaluation;
mod processes;
mod readme;
mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use scalingnote::embedding;
use scalingnote::snapshot::{self, Manifest};
use scalingnote::store::{Root, hash_file};

use crate::fixture::days::{Corpus, newest_seen, pipeline};
use crate::fixture::program::{PROGRAM, encoded, program};
use crate::fixture::support;
use processes::{Cluster, End, LOST_AFTER, finish, until};

const MINUTE: Duration = Duration::from_secs(60);

/// A corpus, pipelines over it, and roots.
struct Place {
    corpus: Corpus,
    runtime: tokio::runtime::Runtime,
    root: String,
}

impl Place {
    /// `notes` notes in 6 shards; a fake tower that makes so many tokens a second.
    fn new(notes: i64, tokens_per_second: u32) -> Self {
        Self::at("root", notes, tokens_per_second)
    }

    fn at(root: &str, notes: i64, tokens_per_second: u32) -> Self {
        let corpus = Corpus::new(notes);
        let text = pipeline()
            .replace("memory://unused", root)
            .replace("fake:16", &format!("fake:16?tokens_per_second={tokens_per_second}"))
            .replace("shards = 2", "shards = 6");
        std::fs::write(corpus.folder.path().join("p.toml"), text).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let place = Self { corpus, runtime, root: root.to_owned() };
        place.corpus.write(|_| false.into());
        place
    }

    fn folder(&self) -> &Path {
        self.corpus.folder.path()
    }

    fn root(&self) -> Root {
        match self.root.contains("://") {
            true => Root::open(&self.root).unwrap(),
            false => Root::open(self.folder().join(&self.root).to_str().unwrap()).unwrap(),
        }
    }

    /// The newest snapshot of a root, every file of which must be as its manifest says, and what a reader sees in it.
    fn newest(&self, root: &Root) -> (Manifest, BTreeMap<String, String>) {
        self.runtime.block_on(async {
            let cache = tempfile::tempdir().unwrap();
            newest_seen(root, cache.path(), "").await.expect("a snapshot")
        })
    }

    /// The same corpus, run in one process without disturbance.
    fn undisturbed(&self) -> (Manifest, BTreeMap<String, String>) {
        let output = program(self.folder())
            .args(["run", "p.toml", "--quiet", "--set", "publish.root=undisturbed"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let root = self.folder().join("undisturbed");
        self.newest(&Root::open(root.to_str().unwrap()).unwrap())
    }

    /// Texts that the parts of the root hold, and how often they are held in all.
    fn stored_texts(&self, manifest: &Manifest) -> (usize, usize) {
        self.runtime.block_on(async {
            let (root, mut all) = (self.root(), Vec::new());
            let space = &manifest.content.space_id;
            for shard in 0..manifest.content.shard_count {
                for part in embedding::list_parts(&root, space, Some(shard)).await.unwrap() {
                    all.extend(embedding::read_text_hashes(&root, &part).await.unwrap());
                }
            }
            (all.iter().collect::<BTreeSet<_>>().len(), all.len())
        })
    }

    /// The newest state of every executor's book, by executor.
    fn books(&self) -> BTreeMap<String, Value> {
        self.runtime.block_on(async {
            let root = self.root();
            let mut keys: Vec<_> = root.list("runs").await.unwrap();
            keys.retain(|object| object.key.ends_with(".book"));
            keys.sort_by(|a, b| a.key.cmp(&b.key));
            let mut books = BTreeMap::new();
            for object in keys {
                // Books are replaced while we look.
                let Ok(bytes) = root.get(&object.key).await else { continue };
                let book: Value = serde_json::from_slice(&bytes).unwrap();
                books.insert(book["executor"].as_str().unwrap().to_owned(), book);
            }
            books
        })
    }

    /// Waits until `executors` of them are encoding and have encoded something.
    fn until_encoding(&self, executors: usize) {
        until("texts are encoded", || {
            let books = self.books();
            let encodes = |book: &&Value| {
                book["tokens"].as_u64() > Some(0)
                    && book["task"].as_str().is_some_and(|task| task.starts_with("encode-"))
            };
            books.values().filter(encodes).count() >= executors
        });
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> =
        ["embeddings", "indexes"].iter().map(|name| folder.join(name)).collect();
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            // Receipts of tasks and indexes say how long they took.
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|end| end == "json") => {}
                false => {
                    let key = path.strip_prefix(folder).unwrap().to_owned();
                    found.insert(key, hash_file(&path).unwrap().to_hex());
                }
            }
        }
    }
    found
}

#[test]
fn the_content_is_that_of_a_run_in_one_process() {
    let mut place = Place::new(500, 1_000_000);
    let cluster = Cluster::start(2);
    let report = cluster.ok(place.folder(), &[]);
    assert_eq!((encoded(&report), &report["outcome"]["result"]), (500, &"published".into()));
    let (manifest, view) = place.newest(&place.root());
    let (alone, alone_view) = place.undisturbed();
    assert_eq!(manifest.content_hash, alone.content_hash);
    assert_eq!(view, alone_view);
    // Byte by byte, name by name.
    let own = files(&place.folder().join("root"));
    assert!(own.len() > 12, "{own:?}");
    assert_eq!(own, files(&place.folder().join("undisturbed")));

    // Every executor is in the report, with what it did.
    let executors = report["executors"].as_array().unwrap();
    assert!((1..=2).contains(&executors.len()), "{executors:?}");
    let sum = |key: &str| executors.iter().map(|e| e[key].as_u64().unwrap()).sum::<u64>();
    // Preparing, checking, 6 encodings, the calibration, 6 builds.
    assert_eq!((sum("texts"), sum("tasks"), sum("retries")), (500, 15, 0));
    assert!(executors.iter().all(|e| e["busy_seconds"].as_f64() > Some(0.0)));

    let again = cluster.ok(place.folder(), &[]);
    assert_eq!(again["outcome"]["result"], "nothing-to-do");

    // A second day: a few notes are edited.
    for id in 0..5 {
        place.corpus.notes.get_mut(&id).unwrap().0 = format!("rewritten {id}");
    }
    place.corpus.write(|_| false.into());
    assert_eq!(encoded(&cluster.ok(place.folder(), &[])), 5);
    let (manifest, view) = place.newest(&place.root());
    let (alone, alone_view) = place.undisturbed();
    assert_eq!((manifest.number, manifest.content_hash), (2, alone.content_hash));
    assert_eq!(view, alone_view);
}

/// Ends one of two executors in the middle of encoding.
fn lose_an_executor(root: &str, how: End) {
    // Two executors take about six seconds for some 6,000 tokens.
    let place = Place::at(root, 1_000, 500);
    let mut cluster = Cluster::start(2);
    let driver = cluster.driver(place.folder(), &[]);
    place.until_encoding(2);
    cluster.end_executor(0, how);
    // The other one does its own share, waits until the first is known to be lost, and does that one's.
    let output = finish(driver, LOST_AFTER + MINUTE);
    assert_eq!(output.status.code(), Some(0), "{root} {how:?}: {}", cluster.said());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (manifest, view) = place.newest(&place.root());
    let (alone, alone_view) = place.undisturbed();
    assert_eq!(view, alone_view, "{root} {how:?}");
    assert_eq!(place.stored_texts(&manifest), (1_000, 1_000), "no text is stored twice");
    if how == End::Kill {
        // Parts that were finished stay, and the others are cut where they would have been.
        assert_eq!(manifest.content_hash, alone.content_hash);
    }
    let executors = report["executors"].as_array().unwrap();
    assert_eq!(executors.len(), 2);
    let retries: u64 = executors.iter().map(|e| e["retries"].as_u64().unwrap()).sum();
    assert!(retries > 0, "the lost executor's works were begun again: {executors:?}");
}

#[test]
fn a_killed_executor_costs_the_work_at_hand() {
    lose_an_executor("root", End::Kill);
}

#[test]
fn a_terminated_executor_keeps_what_it_has() {
    lose_an_executor("root", End::Terminate);
}

#[test]
fn a_lost_executor_on_roots_of_the_environment() {
    for uri in support::roots_of_the_environment() {
        for how in [End::Kill, End::Terminate] {
            lose_an_executor(&format!("{uri}/{:016x}", rand::random::<u64>()), how);
        }
    }
}

#[test]
fn a_scheduler_that_is_started_anew_gets_the_job_again() {
    let place = Place::new(1_000, 500);
    let mut cluster = Cluster::start(2);
    let driver = cluster.driver(place.folder(), &[]);
    place.until_encoding(2);
    cluster.kill_scheduler();
    cluster.restart_scheduler();
    let output = finish(driver, 2 * MINUTE);
    assert_eq!(output.status.code(), Some(0), "{}", cluster.said());
    assert_eq!(place.newest(&place.root()).1, place.undisturbed().1);
}

#[test]
fn without_a_scheduler_a_run_ends_and_the_next_one_resumes() {
    let place = Place::new(1_000, 500);
    let mut cluster = Cluster::start(2);
    let driver = cluster.driver(place.folder(), &[]);
    place.until_encoding(2);
    cluster.kill_scheduler();
    let output = finish(driver, 2 * MINUTE);
    assert_eq!(output.status.code(), Some(75), "{}", cluster.said());
    cluster.restart_scheduler();
    let report = cluster.ok(place.folder(), &[]);
    assert!(encoded(&report) < 1_000, "what was finished is not done again");
    let (manifest, view) = place.newest(&place.root());
    assert_eq!(view, place.undisturbed().1);
    assert_eq!(place.stored_texts(&manifest), (1_000, 1_000));
}

#[test]
fn a_killed_driver_is_followed_by_one_that_resumes() {
    let place = Place::new(1_000, 500);
    let cluster = Cluster::start(2);
    let mut driver = cluster.driver(place.folder(), &[]);
    place.until_encoding(2);
    until("a part is stored", || {
        let root = place.root();
        let stored = place.runtime.block_on(root.list("embeddings")).unwrap();
        stored.iter().any(|object| object.key.ends_with(".receipt.json"))
    });
    processes::end(&mut driver, End::Kill);
    // The executors find out that their run is over, and go to work for the next.
    let report = cluster.ok(place.folder(), &[]);
    assert!(encoded(&report) < 1_000, "what was finished is not done again");
    assert_eq!(place.newest(&place.root()).1, place.undisturbed().1);
}

#[test]
fn an_executor_killed_while_it_prepares_is_replaced_within_a_bound() {
    let place = Place::new(60_000, 100_000_000);
    let mut cluster = Cluster::start(1);
    let driver = cluster.driver(place.folder(), &["--patience", "60s"]);
    until("an executor prepares", || place.books().values().any(|book| book["task"] == "prepare"));
    cluster.end_executor(0, End::Kill);
    let prepared = place.runtime.block_on(place.root().list("runs")).unwrap();
    assert!(
        prepared.iter().all(|object| !object.key.ends_with("prepared.json")),
        "killed too late"
    );
    let killed = Instant::now();
    cluster.add_executor();
    until("the other one prepares", || {
        let books = place.books();
        books.len() == 2
            && books.values().any(|b| b["finished"].as_u64() > Some(0) || b["task"] == "prepare")
    });
    assert!(killed.elapsed() < LOST_AFTER + Duration::from_secs(20), "{:?}", killed.elapsed());
    let output = finish(driver, 3 * MINUTE);
    assert_eq!(output.status.code(), Some(0), "{}", cluster.said());
    let (manifest, _) = place.newest(&place.root());
    let (alone, _) = place.undisturbed();
    assert_eq!(manifest.content_hash, alone.content_hash);
}

#[test]
fn silence_never_lasts_for_ever() {
    let place = Place::new(60_000, 100_000_000);
    let mut cluster = Cluster::start(1);
    let driver = cluster.driver(place.folder(), &["--patience", "4s"]);
    until("an executor prepares", || place.books().values().any(|book| book["task"] == "prepare"));
    // It hangs: nothing tells that but its silence.
    cluster.end_executor(0, End::Freeze);
    let output = finish(driver, Duration::from_secs(4 * (4 + 3) + 20));
    assert_eq!(output.status.code(), Some(75), "{}", cluster.said());
    assert!(cluster.said().contains("no executor was heard from for 4 s"), "{}", cluster.said());
}

#[test]
fn errors_of_executors_come_back_with_their_exit_codes() {
    let place = Place::new(10, 1_000_000);
    let cluster = Cluster::start(1);
    let wrong_sql = ["--set", "corpus.sql=select id as note_id, body, likes, nothing from notes"];
    let output = cluster.run(place.folder(), &wrong_sql, MINUTE);
    assert_eq!(output.status.code(), Some(2), "{}", cluster.said());
    assert!(cluster.said().contains("--set corpus.sql: executor "), "{}", cluster.said());
    let missing = ["--set", "corpus.tables.0.uri=nowhere.jsonl"];
    let output = cluster.run(place.folder(), &missing, MINUTE);
    assert_eq!(output.status.code(), Some(1), "{}", cluster.said());
    // The same executor goes on with what is right.
    assert_eq!(encoded(&cluster.ok(place.folder(), &[])), 10);
}

#[test]
fn a_scheduler_listens_elsewhere_only_where_a_person_says_so() {
    let scheduler = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["cluster", "scheduler"]).args(arguments);
        command
    };
    let refused = scheduler(&["--bind", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--closed-network"));
    let mut told = scheduler(&["--bind", "0.0.0.0:0", "--closed-network"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(told.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.starts_with("scheduling on df://0.0.0.0:"), "{line}");
    processes::end(&mut told, End::Terminate);
}

/// `SCALINGNOTE_CLUSTER_MODEL` names a real tower (`make test-cluster` sets it).
#[test]
fn a_real_tower_gives_the_same_vectors() {
    let Ok(model) = std::env::var("SCALINGNOTE_CLUSTER_MODEL") else {
        println!("skipped: SCALINGNOTE_CLUSTER_MODEL names no model");
        return;
    };
    let place = Place::new(60, 1);
    let tower = format!("tower.model={model}");
    let cluster = Cluster::start(2);
    let own = cluster.run(place.folder(), &["--set", &tower], 5 * MINUTE);
    assert_eq!(own.status.code(), Some(0), "{}", cluster.said());
    let alone = program(place.folder())
        .args(["run", "p.toml", "--quiet", "--set", &tower, "--set", "publish.root=alone"])
        .status();
    assert!(alone.unwrap().success());
    let vectors = |root: &Root| {
        place.runtime.block_on(async {
            let newest = snapshot::newest(root).await.unwrap().unwrap();
            let mut vectors = BTreeMap::new();
            for shard in 0..newest.content.shard_count {
                let space = &newest.content.space_id;
                for part in embedding::list_parts(root, space, Some(shard)).await.unwrap() {
                    let hashes = embedding::read_text_hashes(root, &part).await.unwrap();
                    let rows: Vec<u32> = (0..hashes.len() as u32).collect();
                    let read = embedding::read_vectors(root, &part.file.path, &rows).await.unwrap();
                    for (hash, row) in hashes.into_iter().zip(read.rows()) {
                        vectors.insert(hash, row.to_vec());
                    }
                }
            }
            vectors
        })
    };
    let alone = Root::open(place.folder().join("alone").to_str().unwrap()).unwrap();
    let (own, alone) = (vectors(&place.root()), vectors(&alone));
    assert_eq!((own.len(), own.keys().eq(alone.keys())), (60, true));
    let least = own.iter().map(|(hash, row)| {
        row.iter().zip(&alone[hash]).map(|(a, b)| f64::from(a * b)).sum::<f64>()
    });
    let least = least.fold(1.0, f64::min);
    assert!(least > 0.99999, "least cosine {least}");
}
