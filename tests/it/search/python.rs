//! The Python package of `schemas/python` finds what `scalingnote search` finds.

use std::process::Command;

use serde_json::{Value, json};

use scalingnote::search::{Hit, Snapshot};
use scalingnote::store::Root;

use crate::fixture::checkout::{Checkout, package};
use crate::fixture::python;
use crate::fixture::support::unit_vectors;

#[test]
fn its_own_tests_pass() {
    let Some(python) = python::with("numpy, pyarrow, usearch") else { return };
    let mut command = Command::new(python);
    command.args(["-m", "unittest", "discover", "-s", "tests"]);
    command.current_dir(package().join("schemas/python")).env("PYTHONPATH", python::reader());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Ways to build a root, and how far scores may differ: by rounding where they are rescored, by usearch's arithmetic
/// where they are the index's own.
const ROOTS: [(&str, f64); 10] = [
    ("index.quantization=i8 index.shards=1", 1e-5),
    ("index.quantization=f32 index.shards=3 index.builder=scalingnote", 1e-5),
    ("index.quantization=f16 index.shards=2", 1e-5),
    ("index.quantization=bf16 index.shards=2", 1e-5),
    ("index.quantization=i8 index.shards=4 index.builder=scalingnote", 1e-5),
    ("index.quantization=b1 index.shards=2", 1e-5),
    ("index.quantization=b1r index.shards=2 index.builder=scalingnote", 1e-5),
    ("index.quantization=i8 index.shards=2 index.rescore=0", 2e-3),
    ("index.quantization=f16 index.shards=1 index.rescore=0", 2e-3),
    // Long notes in windows: a note counts by its best.
    ("index.shards=2 chunking.window_tokens=8 chunking.overlap_tokens=2", 1e-5),
];

#[tokio::test(flavor = "multi_thread")]
async fn both_find_the_same_in_every_kind_of_root() {
    let Some(python) = python::with("numpy, pyarrow, usearch") else { return };
    for (keys, rounding) in ROOTS {
        let mut checkout = Checkout::new();
        let keys: String = keys.split(' ').map(|key| format!(" --set {key}")).collect();
        let run = format!(
            "scalingnote run pipelines/quickstart.toml --set tower.arithmetic=f32 --set gates.recall_min=0.1 \
             --set corpus.stored_columns='[\"title\", \"kind\", \"topics\"]'{keys}"
        );
        checkout.ok(&run);
        // A base with removed vectors, and a delta in one shard.
        checkout.edit();
        checkout.ok(&run);
        let root = Root::open(checkout.root().to_str().unwrap()).unwrap();
        for number in [1, 2] {
            same_in(&python, &checkout, &root, number, rounding).await;
        }
    }
}

async fn same_in(
    python: &std::path::Path,
    checkout: &Checkout,
    root: &Root,
    number: u64,
    rounding: f64,
) {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::open(root, Some(number), cache.path()).await.unwrap();
    let mut queries = Vec::new();
    let mut expected = Vec::new();
    for (at, vector) in unit_vectors(12, 64, 31).rows().enumerate() {
        let k = [1, 7, 300][at % 3];
        for (exact, title) in [(false, None), (true, None), (false, Some(checkout.title(at)))] {
            let found = match &title {
                None => snapshot.search_vector(vector, k, exact),
                Some(title) => {
                    let condition = format!("title = '{title}'");
                    let passing = snapshot.passing(&condition).unwrap();
                    snapshot.search_among(vector, k, exact, &passing)
                }
            };
            let filter = title.map(|title| json!(["title", title]));
            queries.push(json!({"vector": vector, "k": k, "exact": exact, "where": filter}));
            expected.push(serde_json::to_value(Hit::ranked(found.unwrap())).unwrap());
        }
    }
    let found = python::search(python, &checkout.root(), number, &queries);
    assert!(expected.iter().any(|hits| hits.as_array().is_some_and(|hits| hits.len() == 240)));
    let quantization = &snapshot.manifest().content.index.options["quantization"];
    let of_bits = quantization == "b1" || quantization == "b1r";
    for ((theirs, ours), query) in found.iter().zip(&expected).zip(&queries) {
        match of_bits && query["exact"] == false && query["where"].is_null() {
            // Of vectors that are equally far either may look at others.
            true => python::assert_as_good_hits(theirs, ours, rounding),
            false => python::assert_same_hits(theirs, ours, rounding),
        }
    }
    let one = |hits: &&Value| hits.as_array().is_some_and(|hits| hits.len() == 1);
    assert!(expected.iter().filter(one).count() >= 12, "conditions let their note pass");
}
