//! Purging notes: nothing of them is left, everything else stays as it was, whatever fails on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::util::display::array_value_to_string;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use scalingnote::error::Result;
use scalingnote::observe::{Silent, Stage};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::search::Snapshot;
use scalingnote::snapshot::{self, Manifest};
use scalingnote::stage::{self, PurgeReport, PurgeRequest};
use scalingnote::store::Root;
use scalingnote::types::{Cancel, Digest256, NoteId, NoteKey};

use crate::fixture::days::Corpus;
use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::pipeline::PipelineFile;

/// Words that only note 5 has.
pub(super) const CANARY: &str = "zanzibar quicksilver telegram";

pub(super) fn corpus(notes: i64) -> Corpus {
    let pipeline = PipelineFile {
        columns: "body, substr(body, 1, 10) as start",
        corpus: "stored_columns = [\"start\"]\n",
        tower: "max_tokens = 32\n",
        sections: "[encode]\npart_texts = 16\n[index]\nshards = 2\n",
        ..PipelineFile::default()
    };
    let mut corpus = Corpus::with(pipeline.text(), notes, |_| 0);
    insert(&mut corpus, 5, CANARY);
    corpus
}

pub(super) fn insert(corpus: &mut Corpus, id: i64, body: &str) {
    corpus.notes.insert(id, (body.to_owned(), 0));
}

/// Three days: note 6 changes and takes a text of note 5 for a day, notes 8 and 9 share a text.
pub(super) async fn three_days(corpus: &mut Corpus, root: &Root) {
    corpus.run(root, &[]).await.unwrap();
    insert(corpus, 6, CANARY);
    corpus.run(root, &[]).await.unwrap();
    insert(corpus, 6, "something else");
    corpus.notes.insert(9, corpus.notes[&8].clone());
    corpus.run(root, &[]).await.unwrap();
    assert_eq!(snapshot::numbers(root).await.unwrap(), [1, 2, 3]);
}

pub(super) async fn purge(root: &Root, ids: &[i64]) -> Result<PurgeReport> {
    purge_with(root, ids, false).await
}

async fn purge_with(root: &Root, ids: &[i64], dry_run: bool) -> Result<PurgeReport> {
    let notes: Vec<NoteId> = ids.iter().map(|&id| NoteId::Int(id)).collect();
    stage::purge(PurgeRequest {
        root,
        notes: &notes,
        dry_run,
        reporter: Arc::new(Silent),
        cancel: Cancel::new(),
    })
    .await
}

/// What a reader gets: every note with its score for a fixed query and its stored columns.
async fn seen(root: &Root, manifest: &Manifest, cache: &Path) -> BTreeMap<String, String> {
    let opened = Snapshot::open(root, Some(manifest.number), cache).await.unwrap();
    opened.check_canaries().unwrap();
    let mut probe = [0.1f32; 16];
    probe[3] = 0.7;
    let all = opened.search_vector(&probe, manifest.content.vectors as usize, true).unwrap();
    all.iter().map(|f| (f.note_id.to_string(), format!("{} {:?}", f.score, f.stored))).collect()
}

/// Traces of a note that this test finds by its own means: every value of every Parquet file printed, every other
/// file's bytes.
pub(super) async fn traces(root: &Root, id: i64, text: &str) -> Vec<String> {
    let note = NoteId::Int(id);
    let hash = Digest256::of(text.as_bytes()).to_hex();
    let key = NoteKey::derive(&note, 0, 0).0;
    let (key, spelled) = (key.to_le_bytes(), format!("{key:016x}"));
    let mut found = Vec::new();
    for object in root.list("").await.unwrap() {
        let bytes = root.get(&object.key).await.unwrap();
        let mut hit = |what: &str| found.push(format!("{}: {what}", object.key));
        if object.key.ends_with(".parquet") {
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
            for batch in reader {
                let batch = batch.unwrap();
                for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                    for row in 0..batch.num_rows() {
                        let value = array_value_to_string(column, row).unwrap();
                        if value == note.to_string() || value == hash || value.contains(text) {
                            hit(field.name());
                        }
                    }
                }
            }
            continue;
        }
        let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        if has(&key) {
            hit("key");
        }
        for word in [format!("\"{note}\""), hash.clone(), text.to_owned(), spelled.clone()] {
            if has(word.as_bytes()) {
                hit(&word);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_and_nothing_else_is_lost() {
    let root = Root::in_memory();
    let cache = tempfile::tempdir().unwrap();
    let mut corpus = corpus(60);
    three_days(&mut corpus, &root).await;
    let before = snapshot::newest(&root).await.unwrap().unwrap();
    let mut expected = seen(&root, &before, cache.path()).await;
    assert!(expected.remove("i:5").is_some());
    assert!(!traces(&root, 5, CANARY).await.is_empty(), "the test must find what is there");

    let objects = root.list("").await.unwrap();
    let dry = purge_with(&root, &[5], true).await.unwrap();
    assert!(dry.dry_run && dry.dropped_snapshots == [1, 2, 3] && dry.snapshot.is_none());
    assert_eq!(root.list("").await.unwrap(), objects, "a dry run changes nothing");

    let report = purge(&root, &[5]).await.unwrap();
    assert_eq!((report.snapshot, &report.left, &report.unknown), (Some(4), &vec![], &vec![]));
    assert_eq!(report.dropped_snapshots, [1, 2, 3]);
    assert!(report.shared.is_empty() && report.parts_rewritten > 0, "{report:?}");
    assert_eq!(report.indexes_rebuilt, 1, "only its shard");
    assert_eq!(snapshot::numbers(&root).await.unwrap(), [4]);
    assert_eq!(traces(&root, 5, CANARY).await, Vec::<String>::new());
    let listed = root.list("").await.unwrap();
    assert_eq!(report.scanned.objects, listed.len() as u64, "all of them were looked into");

    let after = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!((after.parent, after.content.notes), (Some(3), 59));
    assert!(snapshot::verify_hashes(&root, &after, &|_| {}).await.unwrap().is_empty());
    assert_eq!(seen(&root, &after, cache.path()).await, expected);

    // Again: there is nothing to do, and it is proven again.
    let again = purge(&root, &[5]).await.unwrap();
    assert_eq!((again.snapshot, again.deleted.len(), again.left.len()), (None, 0, 0));
    assert!(again.unknown.is_empty(), "it has a tombstone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_corpus_does_not_bring_it_back_until_lifted() {
    let root = Root::in_memory();
    let mut corpus = corpus(60);
    three_days(&mut corpus, &root).await;
    purge(&root, &[5, 7]).await.unwrap();

    let texts = |report: &RunReport| {
        report.stages.iter().find(|stage| stage.stage == Stage::Encode).unwrap().actual.texts
    };
    // The corpus still has both; nothing is encoded again, and no gate sees a fall in count.
    let next = corpus.run(&root, &["gates.max_count_drop_percent=0.0"]).await.unwrap();
    assert_eq!((texts(&next), next.corpus.notes_deleted), (0, 0));
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!(newest.content.notes, 58);
    assert_eq!(traces(&root, 5, CANARY).await, Vec::<String>::new());
    let idle = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(idle.outcome, Outcome::NothingToDo { snapshot: Some(newest.number) });

    // A rollback keeps the tombstones too.
    insert(&mut corpus, 900, "one more");
    corpus.run(&root, &[]).await.unwrap();
    let back =
        snapshot::rollback(&root, newest.number, crate::fixture::support::provenance("back")).await;
    let snapshot::RollbackOutcome::Committed(back) = back.unwrap() else { panic!("it is older") };
    assert_eq!(back.purged.notes.len(), 2);

    let lifted = stage::lift(&root, &[NoteId::Int(5)]).await.unwrap();
    assert!(lifted.is_some());
    assert_eq!(stage::lift(&root, &[NoteId::Int(5)]).await.unwrap(), None);
    let returned = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(texts(&returned), 1);
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!(newest.content.notes, 60, "58, note 5 and note 900; note 7 stays away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_another_note_has_stays_for_that_note() {
    let root = Root::in_memory();
    let mut corpus = corpus(40);
    three_days(&mut corpus, &root).await;
    let text = corpus.notes[&8].0.clone();
    let report = purge(&root, &[8]).await.unwrap();
    let shared: Vec<_> = report.shared.iter().map(|s| (s.note.as_str(), s.also.as_str())).collect();
    assert_eq!((shared, &report.left), (vec![("i:8", "i:9")], &vec![]));
    let left = traces(&root, 8, &text).await;
    let only = |trace: &String| trace.ends_with(": text_hash") || trace.ends_with(": text");
    assert!(!left.is_empty() && left.iter().all(only), "{left:?}");
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let seen = seen(&root, &newest, cache.path()).await;
    assert!(seen.contains_key("i:9") && !seen.contains_key("i:8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_the_corpus_lost_before_is_purged_too() {
    let root = Root::in_memory();
    let mut corpus = corpus(60);
    three_days(&mut corpus, &root).await;
    corpus.notes.remove(&5);
    corpus.run(&root, &[]).await.unwrap();
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert!(newest.content.notes == 59 && !traces(&root, 5, CANARY).await.is_empty());
    let report = purge(&root, &[5]).await.unwrap();
    assert!(report.unknown.is_empty() && report.left.is_empty(), "{report:?}");
    assert_eq!(traces(&root, 5, CANARY).await, Vec::<String>::new());

    // One that never was: said, and kept out from now on.
    let never = purge(&root, &[77_777]).await.unwrap();
    assert_eq!((never.unknown, never.deleted.len()), (vec!["i:77777".to_owned()], 0));
    insert(&mut corpus, 77_777, "late");
    assert_eq!(corpus.run(&root, &[]).await.unwrap().corpus.notes_new, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_notes_of_a_shard_and_of_the_corpus_can_go() {
    let root = Root::in_memory();
    let mut corpus = corpus(12);
    three_days(&mut corpus, &root).await;
    let ids: Vec<i64> = corpus.notes.keys().copied().collect();
    let of_shard = |shard: u32| -> Vec<i64> {
        let all = ids.iter().copied();
        all.filter(|&id| scalingnote::types::shard_of(&NoteId::Int(id), 2) == shard).collect()
    };
    assert!(purge(&root, &of_shard(0)).await.unwrap().left.is_empty());
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!(newest.content.notes, of_shard(1).len() as u64);
    assert!(newest.content.shards[0].index.is_none());
    assert!(purge(&root, &of_shard(1)).await.unwrap().left.is_empty());
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!((newest.content.notes, newest.content.parts.len()), (0, 0));
    assert!(root.list("embeddings").await.unwrap().iter().all(|o| o.key.ends_with(".task.json")));
}

/// Every operation of the store in turn fails once, before or after it was done; the purge stops there. Then the same
/// command again, without faults, must finish it; at no time is there a snapshot that is not whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_stopped_anywhere_is_finished_by_the_next() {
    let clear = Root::in_memory();
    let mut corpus = corpus(24);
    three_days(&mut corpus, &clear).await;
    let cache = tempfile::tempdir().unwrap();
    let store = copy(&clear).await;
    let reference = Root::from_store(Arc::new(store.fork()), "memory://purge", None);
    purge(&reference, &[5]).await.unwrap();
    let expected = snapshot::newest(&reference).await.unwrap().unwrap();
    let expected = seen(&reference, &expected, cache.path()).await;

    let (mut stopped, mut at) = (0, 0);
    loop {
        let fault = if at % 2 == 0 { Fault::Before } else { Fault::After };
        let inner = Arc::new(store.fork());
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        // Deletes and puts are what leaves something half done; reads and lists every now and then.
        let faulty = Faulty::new(inner.clone(), move |operation, _| {
            let weight = matches!(operation, "put" | "delete" | "multipart") || at % 5 == 0;
            let call = if weight { counted.fetch_add(1, Ordering::SeqCst) } else { u64::MAX };
            (call >= at && call != u64::MAX).then_some(fault)
        });
        let outcome = purge(&faulty.root(), &[5]).await;
        let clear = Root::from_store(inner, "memory://purge", None);
        let newest = snapshot::newest(&clear).await.unwrap().unwrap();
        assert!(
            snapshot::verify_hashes(&clear, &newest, &|_| {}).await.unwrap().is_empty(),
            "{at}"
        );
        match outcome {
            Ok(report) => assert!(report.left.is_empty(), "{at}: {report:?}"),
            Err(error) => {
                stopped += 1;
                assert!(error.is_retryable(), "{at}: {error:?}");
            }
        }
        forget_leases(&clear).await;
        let report = purge(&clear, &[5]).await.unwrap();
        assert_eq!(report.left, [], "stopped at {at}");
        assert_eq!(traces(&clear, 5, CANARY).await, Vec::<String>::new(), "stopped at {at}");
        let newest = snapshot::newest(&clear).await.unwrap().unwrap();
        assert_eq!(seen(&clear, &newest, cache.path()).await, expected, "stopped at {at}");
        if calls.load(Ordering::SeqCst) < at {
            break;
        }
        at += 1;
    }
    println!("{at} places, {stopped} purges stopped there");
    assert!(stopped > 20, "the faults must have bitten: {stopped}");
}

/// The objects of a root in a store of their own.
async fn copy(root: &Root) -> InMemory {
    let copy = Arc::new(InMemory::new());
    let to = Root::from_store(copy.clone(), "memory://copy", None);
    for object in root.list("").await.unwrap() {
        to.put(&object.key, root.get(&object.key).await.unwrap()).await.unwrap();
    }
    copy.fork()
}

/// A stopped process leaves its lease to go stale; the test does not wait 15 minutes.
async fn forget_leases(root: &Root) {
    for lease in root.list("leases").await.unwrap() {
        root.delete(&lease.key).await.unwrap();
    }
}
