//! A corpus that executors read in shares: the content is that of one task in one process, also where an executor is killed.

use serde_json::Value;

use scalingnote::snapshot;
use scalingnote::store::Root;

use super::processes::{Cluster, End, LOST_AFTER, finish, until};
use super::{MINUTE, encoded};
use crate::exec::prepared_shares::Corpus;
use crate::fixture::program::program;

struct Shared {
    corpus: Corpus,
    runtime: tokio::runtime::Runtime,
}

impl Shared {
    fn new(files: usize) -> Self {
        let corpus = Corpus::new(files, "jsonl");
        std::fs::write(corpus.0.path().join("p.toml"), Corpus::file("root").text()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        Self { corpus, runtime }
    }

    fn root(&self, name: &str) -> Root {
        Root::open(self.corpus.0.path().join(name).to_str().unwrap()).unwrap()
    }

    fn content(&self, root: &str) -> String {
        let root = self.root(root);
        let newest = self.runtime.block_on(snapshot::newest(&root)).unwrap();
        newest.expect("a snapshot").content_hash.to_hex()
    }

    fn keys(&self, folder: &str) -> Vec<String> {
        let listed = self.runtime.block_on(self.root("root").list(folder)).unwrap();
        listed.into_iter().map(|object| object.key).collect()
    }

    /// What one process makes of the corpus, read as one task.
    fn alone(&self) -> String {
        let set = ["publish.root=alone", "corpus.share_mib=1000"].map(|set| ["--set", set]);
        let output = program(self.corpus.0.path())
            .args(["run", "p.toml", "--quiet"])
            .args(set.concat())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.content("alone")
    }

    fn tasks(&self) -> Vec<String> {
        let books = self.keys("runs").into_iter().filter(|key| key.ends_with(".book"));
        let read = |key: String| self.runtime.block_on(self.root("root").get(&key)).ok();
        let mut begun: Vec<String> = books
            .filter_map(read)
            .flat_map(|bytes| {
                let status: Value = serde_json::from_slice(&bytes).unwrap();
                let began = status["began"].as_array().unwrap().clone();
                began.into_iter().map(|began| began["task"].as_str().unwrap().to_owned())
            })
            .collect();
        begun.sort();
        begun
    }
}

#[test]
fn days_are_those_of_one_process() {
    let shared = Shared::new(4);
    let cluster = Cluster::start(2);
    let folder = shared.corpus.0.path();
    let report = cluster.ok(folder, &[]);
    assert!(encoded(&report) > 1_000, "{report}");
    assert_eq!(shared.content("root"), shared.alone());
    let tasks = shared.tasks();
    let of = |stage: &str| tasks.iter().filter(|task| task.starts_with(stage)).count();
    assert_eq!(
        ["prepare", "read-", "gather-", "plan", "encode-", "build-"].map(of),
        [1, 4, 3, 1, 3, 3],
        "{tasks:?}"
    );
    // Nothing is left of the way there.
    let left = shared.keys("prepared");
    assert!(left.iter().all(|key| key.ends_with(".parquet")), "{left:?}");
    assert_eq!(cluster.ok(folder, &[])["outcome"]["result"], "nothing-to-do");
    shared.corpus.write(2, "jsonl", " edited");
    let report = cluster.ok(folder, &[]);
    assert!((1..=300).contains(&encoded(&report)), "{report}");
    assert_eq!(shared.content("root"), shared.alone());
}

#[test]
fn an_executor_killed_while_it_reads_costs_what_it_was_reading() {
    let shared = Shared::new(48);
    let mut cluster = Cluster::start(2);
    let driver = cluster.driver(shared.corpus.0.path(), &[]);
    until("two shares are read", || {
        let receipts = shared.keys("prepared");
        receipts.iter().filter(|key| key.ends_with(".rows.json")).count() >= 2
    });
    cluster.end_executor(0, End::Kill);
    assert!(!shared.tasks().iter().any(|task| task.starts_with("gather-")), "killed too late");
    let output = finish(driver, LOST_AFTER + 2 * MINUTE);
    assert_eq!(output.status.code(), Some(0), "{}", cluster.said());
    assert_eq!(shared.content("root"), shared.alone());
}
