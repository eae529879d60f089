//! Several workers on one shard: who has nothing of his own takes batches of the others' texts. Nobody sees it in what
//! is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::memory::InMemory;

use scalingnote::error::{ErrorKind, Result};
use scalingnote::exec::{self, RunOptions};
use scalingnote::observe::{Event, Recorder, Stage};
use scalingnote::report::RunReport;
use scalingnote::snapshot;
use scalingnote::store::Root;
use scalingnote::types::Cancel;

use crate::fixture::days::{Corpus, context, encoded, found};
use crate::fixture::faults::{Fault, Faulty};

/// One shard, batches of about eight texts, two windows and a bit.
const ONE_SHARD: [&str; 4] = [
    "index.shards=1",
    "encode.token_budget=40",
    "encode.part_texts=128",
    r#"encode.devices=["cpu:1","cpu:1"]"#,
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ONE_SHARD.iter().copied().chain(more.iter().copied()).collect()
}

async fn run(
    corpus: &Corpus,
    root: &Root,
    set: &[&str],
    cancel: Cancel,
) -> (Result<RunReport>, Vec<String>) {
    corpus.write(|_| serde_json::Value::Bool(false));
    let recorder = Arc::new(Recorder::default());
    let mut ctx = context(corpus.pipeline(set), root);
    (ctx.reporter, ctx.cancel) = (recorder.clone(), cancel);
    let report = exec::run(&ctx, &RunOptions { attempts: 1, ..RunOptions::default() }).await;
    let warnings = recorder.events().into_iter().filter_map(|(_, event)| match event {
        Event::Warning { message } => Some(message),
        _ => None,
    });
    (report, warnings.collect())
}

/// Name and content of every part and receipt under the root.
async fn parts(root: &Root) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    for object in root.list("embeddings").await.unwrap() {
        // The receipt of the task tells how long it took.
        if !object.key.contains("encode-") {
            let hash = root.hash(&object.key).await.unwrap().0;
            parts.insert(object.key, hash.to_hex());
        }
    }
    parts
}

async fn vectors(root: &Root) -> BTreeMap<String, String> {
    let manifest = snapshot::newest(root).await.unwrap().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let opened =
        scalingnote::search::Snapshot::open(root, Some(manifest.number), cache.path()).await;
    found(&opened.unwrap())
}

fn encode_seconds(report: &RunReport) -> f64 {
    report.stages.iter().find(|stage| stage.stage == Stage::Encode).unwrap().actual.seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard_keeps_every_worker_busy_and_its_bytes_do_not_tell() {
    let corpus = Corpus::new(300);
    let paced = r#"tower.model="fake:16?tokens_per_second=500""#;
    let (alone, together) = (Root::in_memory(), Root::in_memory());
    let one = with(&[paced, r#"encode.devices=["cpu:1"]"#]);
    let first = run(&corpus, &alone, &one, Cancel::new()).await.0.unwrap();
    let second = run(&corpus, &together, &with(&[paced]), Cancel::new()).await.0.unwrap();
    assert_eq!((encoded(&first), encoded(&second)), (300, 300));

    let (busy, seconds) = (second.device_busy_seconds, encode_seconds(&second));
    println!(
        "one worker {:.2} s, two {seconds:.2} s, both busy for {busy:.2} s",
        encode_seconds(&first)
    );
    assert!(busy > 1.5 * seconds, "busy {busy} s of {seconds} s");
    assert!(seconds < 0.75 * encode_seconds(&first), "{seconds} s");
    // The fake tower is as fast as it can be whenever it has a batch.
    let share = second.ceiling_share.unwrap();
    assert!((0.8..=1.0).contains(&share), "{share} of the ceiling");

    let stored = parts(&alone).await;
    assert_eq!(stored.len(), 6, "three parts with their receipts: {stored:?}");
    assert_eq!(stored, parts(&together).await);
    let content = |root: Root| async move {
        let manifest = snapshot::newest(&root).await.unwrap().unwrap();
        (manifest.content_hash, manifest.content.parts)
    };
    assert_eq!(content(alone).await, content(together).await);
}

/// The receipt of a part that could not be written, and that of a shard: their tasks are tried again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_again_is_counted_once() {
    let corpus = Corpus::new(300);
    corpus.write(|_| serde_json::Value::Bool(false));
    let mut failing = vec![("embeddings/", ".receipt.json"), ("indexes/", ".task.json")];
    let store = Faulty::new(Arc::new(InMemory::new()), move |operation, path| {
        let fails = |&(start, end): &(&str, &str)| path.starts_with(start) && path.ends_with(end);
        let at = failing.iter().position(fails).filter(|_| operation == "put")?;
        failing.swap_remove(at);
        Some(Fault::Before)
    });
    let recorder = Arc::new(Recorder::default());
    let mut ctx = context(corpus.pipeline(&ONE_SHARD), &store.root());
    ctx.reporter = recorder.clone();
    exec::run(&ctx, &RunOptions::default()).await.unwrap();
    let events: Vec<Event> = recorder.events().into_iter().map(|(_, event)| event).collect();
    let again = |event: &&Event| matches!(event, Event::Warning { message } if message.contains("attempt 2"));
    assert_eq!(events.iter().filter(again).count(), 2, "{events:?}");
    for (stage, total) in [(Stage::Encode, 300), (Stage::Build, 1)] {
        let done = events.iter().filter_map(|event| match event {
            Event::Progress { stage: of, done, .. } if *of == stage => Some(*done),
            _ => None,
        });
        assert_eq!(done.max(), Some(total), "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_halves_the_batches_and_the_run_goes_on() {
    let corpus = Corpus::new(200);
    let (small, plenty) = (Root::in_memory(), Root::in_memory());
    run(&corpus, &plenty, &ONE_SHARD, Cancel::new()).await.0.unwrap();
    let little = r#"tower.model="fake:16?memory_tokens=12""#;
    let (report, warnings) = run(&corpus, &small, &with(&[little]), Cancel::new()).await;
    assert_eq!(encoded(&report.unwrap()), 200);
    // A part names its model, and this one says how much memory it has: the same parts of the same texts, other bytes.
    let names = |parts: BTreeMap<String, String>| -> Vec<String> {
        parts.into_keys().map(|key| key.split('-').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(parts(&plenty).await), names(parts(&small).await));
    assert_eq!(vectors(&plenty).await, vectors(&small).await);
    // 40 tokens, 20, 10: each of the two workers finds that out once, not once a batch.
    let halved: Vec<&String> = warnings.iter().filter(|w| w.contains("out of memory")).collect();
    assert!((2..=4).contains(&halved.len()), "{halved:?}");
    assert!(halved[0].contains("encode.token_budget"), "{halved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_no_device_holds_ends_the_run_and_keeps_the_rest() {
    let mut corpus = Corpus::new(200);
    let long = "one note is longer than all the others and does not fit";
    corpus.notes.insert(900, (long.to_owned(), 0));
    let root = Root::in_memory();
    let little = r#"tower.model="fake:16?memory_tokens=8""#;
    let (report, _) = run(&corpus, &root, &with(&[little]), Cancel::new()).await;
    let error = report.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resource, "{error}");
    assert!(!error.to_string().contains("longer than"), "no text in {error}");
    corpus.notes.remove(&900);
    let (report, _) = run(&corpus, &root, &with(&[little]), Cancel::new()).await;
    assert!(encoded(&report.unwrap()) <= 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_workers_did_before_the_deadline_is_kept() {
    let corpus = Corpus::new(400);
    let (root, whole) = (Root::in_memory(), Root::in_memory());
    run(&corpus, &whole, &ONE_SHARD, Cancel::new()).await.0.unwrap();
    let slow = r#"tower.model="fake:16?tokens_per_second=500""#;
    let cancel = Cancel::new();
    let stopping = cancel.clone();
    let stop = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        stopping.cancel();
    });
    let (report, _) = run(&corpus, &root, &with(&[slow]), cancel).await;
    stop.await.unwrap();
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Cancelled);
    let kept = parts(&root).await.len();
    assert!(kept > 0, "the texts of the open windows are stored");
    let rest = run(&corpus, &root, &ONE_SHARD, Cancel::new()).await.0.unwrap();
    println!("{} of 400 texts were left for the second run", encoded(&rest));
    assert!((1..400).contains(&encoded(&rest)));
    assert_eq!(vectors(&whole).await, vectors(&root).await);
}
