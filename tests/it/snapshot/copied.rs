//! `snapshot copy`: what is missing travels, the manifest last, whatever fails on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;
use serde_json::{Value, json};

use scalingnote::error::{Error, ErrorKind, Result};
use scalingnote::exec;
use scalingnote::observe::Silent;
use scalingnote::report::Outcome;
use scalingnote::snapshot::{
    self, Adapted, Content, Manifest, Protected, QueryTower, Retention, gc,
};
use scalingnote::stage::{self, CopyReport, CopyRequest, PurgeRequest};
use scalingnote::store::{Root, layout};
use scalingnote::types::{Cancel, Digest256, NoteId, hash_json};

use crate::fixture::days::{self, Corpus, encoded, newest, newest_seen};
use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::support::{
    self, keys, notes, provenance, publish, store_content, tiny, unit_vectors,
};

async fn copy(from: &Root, number: u64, to: &Root) -> Result<CopyReport> {
    copy_with(from, number, to, |request| request).await
}

async fn copy_with<'a>(
    from: &'a Root,
    number: u64,
    to: &'a Root,
    with: impl FnOnce(CopyRequest<'a>) -> CopyRequest<'a>,
) -> Result<CopyReport> {
    let (reporter, cancel) = (Arc::new(Silent), Cancel::new());
    let (switch_tower, dry_run) = (false, false);
    let request = CopyRequest { from, number, to, switch_tower, dry_run, reporter, cancel };
    exec::copy(with(request)).await
}

/// A root with two days: the second has a delta, removed rows and other stored columns.
async fn two_days(root: &Root) -> Corpus {
    let mut corpus = Corpus::new(60);
    corpus.run(root, &[]).await.unwrap();
    corpus.notes.insert(3, ("quite another text".to_owned(), 7));
    corpus.notes.remove(&4);
    corpus.run(root, &[]).await.unwrap();
    assert_eq!(newest(root).await.number, 2);
    corpus
}

fn refused(found: Result<CopyReport>, kind: ErrorKind, piece: &str) -> Error {
    let error = found.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(piece), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_whole_goes_on_and_sends_only_what_is_missing() {
    let (from, to) = (Root::in_memory(), Root::in_memory());
    let cache = tempfile::tempdir().unwrap();
    let mut corpus = two_days(&from).await;
    let dry = copy_with(&from, 1, &to, |it| CopyRequest { dry_run: true, ..it }).await.unwrap();
    assert!(keys(&to).await.is_empty(), "a dry run changes nothing");

    let first = copy(&from, 1, &to).await.unwrap();
    assert_eq!((first.snapshot, first.already, first.kept_files), (Some(1), false, 0));
    assert_eq!((first.sent_files, first.sent_bytes), (dry.sent_files, dry.sent_bytes));
    let second = copy(&from, 2, &to).await.unwrap();
    assert!(second.sent_bytes < first.sent_bytes && second.kept_files > 0, "{second:?}");
    let again = copy(&from, 2, &to).await.unwrap();
    assert_eq!((again.snapshot, again.already, again.sent_files), (Some(2), true, 0));
    assert_eq!(snapshot::numbers(&to).await.unwrap(), [1, 2]);

    let (source, seen) = newest_seen(&from, cache.path(), "from").await.unwrap();
    let (copied, same) = newest_seen(&to, cache.path(), "to").await.unwrap();
    assert_eq!((same, &copied.content), (seen, &source.content));
    assert_eq!(copied.parent, Some(1));
    let told = &copied.provenance.measured["copied"];
    assert_eq!((&told["root"], &told["snapshot"]), (&json!("memory://"), &json!(2)));
    assert_eq!(copied.provenance.made_by(), source.provenance.made_by());
    assert_eq!(copied.provenance.gates, source.provenance.gates);
    assert!(to.list(layout::LEASES).await.unwrap().is_empty());

    // A run there has nothing to do, and a changed note is one text and no new index of the rest.
    let idle = corpus.run(&to, &[]).await.unwrap();
    assert_eq!(idle.outcome, Outcome::NothingToDo { snapshot: Some(2) });
    corpus.notes.insert(9, ("changed in production".to_owned(), 0));
    let day = corpus.run(&to, &[]).await.unwrap();
    assert_eq!((encoded(&day), day.shards_rebuilt), (1, 0));
    let base = |manifest: &Manifest| manifest.content.shards[0].index.clone();
    assert_eq!(base(&newest(&to).await), base(&source));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_stopped_anywhere_is_finished_by_the_next() {
    let from = Root::in_memory();
    let cache = tempfile::tempdir().unwrap();
    two_days(&from).await;
    let expected = newest_seen(&from, cache.path(), "from").await.unwrap().1;
    for fault in [Fault::Before, Fault::After, Fault::Exists, Fault::Precondition] {
        let (mut stopped, mut at) = (0, 0);
        loop {
            let inner = Arc::new(InMemory::new());
            let clear = Root::from_store(inner.clone(), "memory://to", None);
            // The other root has the first day already.
            copy(&from, 1, &clear).await.unwrap();
            let calls = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&calls);
            let faulty = Faulty::new(inner, move |operation, _| {
                let changes = matches!(operation, "put" | "multipart" | "part" | "complete");
                let call = if changes { counted.fetch_add(1, Ordering::SeqCst) } else { u64::MAX };
                (call == at).then_some(fault)
            });
            let outcome = copy(&from, 2, &faulty.root()).await;
            let (newest, seen) = newest_seen(&clear, cache.path(), "stopped").await.unwrap();
            match outcome {
                Ok(report) => assert_eq!((report.snapshot, newest.number), (Some(2), 2), "{at}"),
                Err(error) => {
                    stopped += 1;
                    assert!(error.is_retryable() || fault == Fault::Precondition, "{at}: {error}");
                    // Whole or absent, even where the acknowledgement was lost.
                    assert!(newest.number == 1 || seen == expected, "{fault:?} {at}");
                }
            }
            for lease in clear.list(layout::LEASES).await.unwrap() {
                clear.delete(&lease.key).await.unwrap();
            }
            copy(&from, 2, &clear).await.unwrap();
            let (newest, seen) = newest_seen(&clear, cache.path(), "finished").await.unwrap();
            assert_eq!((newest.number, seen), (2, expected.clone()), "{fault:?} {at}");
            if calls.load(Ordering::SeqCst) <= at {
                break;
            }
            at += 1;
        }
        println!("{fault:?}: {at} places, stopped at {stopped}");
        assert!(at > 10, "{fault:?}: a copy has more puts than {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_named_and_nothing_is_published() {
    let from = Root::in_memory();
    two_days(&from).await;
    let source = newest(&from).await;
    for file in source.content.files() {
        let bytes = from.get(&file.path).await.unwrap();
        let mut flipped = bytes.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let plant = async |root: &Root, bytes: Vec<u8>| {
            root.delete(&file.path).await.unwrap();
            root.put(&file.path, bytes.into()).await.unwrap();
        };
        let to = Root::in_memory();
        plant(&from, flipped.clone()).await;
        refused(copy(&from, 2, &to).await, ErrorKind::Corrupt, &file.path);
        plant(&from, bytes.to_vec()).await;
        // Something else is there already under that name: it is not believed, and not written over.
        let to = Root::in_memory();
        plant(&to, flipped.clone()).await;
        let told = refused(copy(&from, 2, &to).await, ErrorKind::Corrupt, &file.path);
        assert!(told.to_string().contains("snapshot repair"), "{told}");
        assert_eq!(to.get(&file.path).await.unwrap(), flipped);
        assert!(snapshot::numbers(&to).await.unwrap().is_empty());
        to.delete(&file.path).await.unwrap();
        copy(&from, 2, &to).await.unwrap();
    }
    let missing = &source.content.parts[0].path;
    let bytes = from.get(missing).await.unwrap();
    from.delete(missing).await.unwrap();
    refused(copy(&from, 2, &Root::in_memory()).await, ErrorKind::NotFound, missing);
    from.put(missing, bytes).await.unwrap();
    refused(copy(&from, 9, &Root::in_memory()).await, ErrorKind::NotFound, "snapshot 9");
}

/// Whoever made the source's manifest must not choose what is written into the other root.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_manifest_plants_nothing() {
    let from = Root::in_memory();
    two_days(&from).await;
    let good = serde_json::to_value(newest(&from).await).unwrap();
    let planted = from.put("runs/planted", "{}".into()).await.unwrap();
    let other_part = good["content"]["parts"][0]["path"].as_str().unwrap().to_owned();
    let other_part =
        other_part.replacen(good["content"]["space_id"].as_str().unwrap(), "0123456789abcdef", 1);
    let no_tower = layout::tower_weights("0123456789abcdef");
    for path in
        [&layout::manifest(99), "runs/planted", &layout::run_lease(1), &other_part, &no_tower]
    {
        let mut manifest = good.clone();
        manifest["content"]["shards"][0]["ids"] =
            json!({"path": path, "size": planted.size, "sha256": planted.sha256});
        manifest["content_hash"] =
            serde_json::to_value(hash_json(&manifest["content"]).unwrap()).unwrap();
        manifest["number"] = 3.into();
        let key = layout::manifest(3);
        from.put(&key, manifest.to_string().into()).await.unwrap();
        let to = Root::in_memory();
        refused(copy(&from, 3, &to).await, ErrorKind::Corrupt, "not a file of its space");
        assert!(keys(&to).await.is_empty(), "{path}");
        from.delete(&key).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tower_a_rollback_and_a_purge_are_respected() {
    let (from, to) = (Root::in_memory(), Root::in_memory());
    let mut corpus = two_days(&from).await;
    copy(&from, 1, &to).await.unwrap();
    copy(&from, 2, &to).await.unwrap();
    // Rolled back there: it does not come back unasked.
    snapshot::rollback(&to, 1, provenance("back")).await.unwrap();
    let told = refused(copy(&from, 2, &to).await, ErrorKind::GateRefused, "rolled back");
    assert!(told.to_string().contains("snapshot 3 blocks it"), "{told}");
    corpus.notes.insert(5, ("fixed".to_owned(), 0));
    corpus.run(&from, &[]).await.unwrap();
    assert_eq!(copy(&from, 3, &to).await.unwrap().snapshot, Some(4));
    assert_eq!(newest(&to).await.blocked.len(), 1, "what is blocked there stays so");

    // Purged there: neither the note nor a part that holds its vector comes back.
    purge(&to, 7).await;
    assert_eq!(snapshot::numbers(&to).await.unwrap().len(), 1);
    corpus.notes.insert(6, ("and so on".to_owned(), 0));
    corpus.run(&from, &[]).await.unwrap();
    let before = keys(&to).await;
    refused(copy(&from, 4, &to).await, ErrorKind::GateRefused, "1 note of snapshot 4");
    assert_eq!(keys(&to).await, before, "nothing travelled");
    purge(&from, 7).await;
    let number = newest(&from).await.number;
    let copied = copy(&from, number, &to).await.unwrap().snapshot.unwrap();
    let copied = snapshot::read(&to, copied).await.unwrap();
    assert!(copied.purged.contains(&NoteId::Int(7)));
    // The first snapshot of a root takes them along.
    let fresh = Root::in_memory();
    copy(&from, number, &fresh).await.unwrap();
    assert!(newest(&fresh).await.purged.contains(&NoteId::Int(7)));
    let idle = corpus.run(&fresh, &[]).await.unwrap();
    assert_eq!(idle.outcome, Outcome::NothingToDo { snapshot: Some(1) });

    // Another embedding space is a decision.
    let other = Root::in_memory();
    corpus.run(&other, &["tower.model=fake:24"]).await.unwrap();
    refused(copy(&other, 1, &to).await, ErrorKind::GateRefused, "--switch-tower");
    let switched = copy_with(&other, 1, &to, |it| CopyRequest { switch_tower: true, ..it }).await;
    assert!(switched.is_err(), "it holds what was purged there");
    let switched = copy_with(&other, 1, &from, |it| CopyRequest { switch_tower: true, ..it }).await;
    assert!(switched.is_err(), "and here");
    let clean = Root::in_memory();
    two_days(&clean).await;
    let switched =
        copy_with(&other, 1, &clean, |it| CopyRequest { switch_tower: true, ..it }).await;
    assert_eq!(switched.unwrap().snapshot, Some(3));
    assert_eq!(newest(&clean).await.content.space.dimensions, 24);
}

/// Twenty notes but note 7, and a query tower that read note 7 while it was there.
pub(super) async fn with_tower(root: &Root) -> Content {
    let mut corpus = notes(&unit_vectors(20, 8, 4));
    corpus.retain(|chunk| chunk.note != NoteId::Int(7));
    let mut content = store_content(root, &corpus, 1).await;
    let found = json!({"hit_at_10": 1.0, "ndcg_at_10": 1.0});
    let judged = json!({"texts": 1, "notes": 8, "llm": found, "before": found, "now": found});
    let read = json!({"version": 2, "notes": ["i:7", "i:8"], "texts": [], "judged": judged});
    let fingerprint = Digest256::of(b"tower");
    let tower = fingerprint.short();
    let texts = Digest256::of(read.to_string().as_bytes()).short();
    let mut files = Vec::new();
    for (key, bytes) in [
        (layout::tower_weights(&tower), "weights".to_owned()),
        (layout::tower_config(&tower), "{}".to_owned()),
        (layout::tower_tokenizer(&tower), "{}".to_owned()),
        (layout::tower_texts(&tower, &texts), read.to_string()),
    ] {
        files.push(root.put(&key, bytes.into()).await.unwrap());
    }
    let base = QueryTower {
        fingerprint: Digest256::of(b"base"),
        kind: QueryTower::DISTILLED.to_owned(),
        options: json!({"model": "student"}),
        teacher: None,
        adapted: None,
    };
    let adapted = Adapted {
        files,
        options: Digest256::of(b"options"),
        steps_left: 0,
        base: Box::new(base.clone()),
    };
    content.query_towers.push(QueryTower { fingerprint, adapted: Some(adapted), ..base });
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapted_tower_goes_along_with_what_it_read() {
    let from = Root::in_memory();
    let content = with_tower(&from).await;
    publish(&from, None, content.clone(), "day 1").await;
    let mut of_tower: Vec<&str> = content.files().map(|file| &*file.path).collect();
    of_tower.retain(|key| key.starts_with("towers/"));
    assert_eq!(of_tower.len(), 4);
    let texts = of_tower.iter().find(|key| key.ends_with(".texts.json")).unwrap();

    // Stopped before any of its other files: a purge there finds what it read.
    let inner = Arc::new(InMemory::new());
    let to = Root::from_store(inner.clone(), "memory://to", None);
    let faulty = Faulty::new(inner, |operation, key| {
        let is_tower = key.starts_with("towers/") && !key.ends_with(".texts.json");
        (operation == "put" && is_tower).then_some(Fault::Before)
    });
    assert!(copy(&from, 1, &faulty.root()).await.unwrap_err().is_retryable());
    let there = keys(&to).await;
    assert!(there.contains(*texts), "{there:?}");
    assert_eq!(there.iter().filter(|key| key.starts_with("towers/")).count(), 1, "{there:?}");
    let rest = copy(&from, 1, &to).await.unwrap();
    assert!(rest.snapshot == Some(1) && rest.kept_files > 0, "{rest:?}");
    for file in content.files() {
        assert_eq!(to.hash(&file.path).await.unwrap(), (file.sha256, file.size));
    }
    let again = copy(&from, 1, &to).await.unwrap();
    assert_eq!((again.already, again.sent_files), (true, 0));

    // A purge there takes it, and it does not come back.
    purge(&to, 7).await;
    let base = &content.query_towers[0].adapted.as_ref().unwrap().base;
    assert_eq!(newest(&to).await.content.query_towers, [(**base).clone()]);
    let before = keys(&to).await;
    assert!(!before.iter().any(|key| key.starts_with("towers/")), "{before:?}");
    let piece = "1 note read by a query tower of snapshot 1";
    refused(copy(&from, 1, &to).await, ErrorKind::GateRefused, piece);
    assert_eq!(keys(&to).await, before, "nothing travelled");
    purge(&from, 7).await;
    let number = newest(&from).await.number;
    assert!(copy(&from, number, &to).await.unwrap().already);

    // One that does not say what it read stays where it is.
    let silent = Root::in_memory();
    let mut content = with_tower(&silent).await;
    if let Some(adapted) = &mut content.query_towers[0].adapted {
        adapted.files.retain(|file| !file.path.ends_with(".texts.json"));
    }
    publish(&silent, None, content, "day 1").await;
    let to = Root::in_memory();
    refused(copy(&silent, 1, &to).await, ErrorKind::Corrupt, "does not say what its query tower");
    assert!(keys(&to).await.is_empty());
}

async fn purge(root: &Root, id: i64) {
    let (reporter, cancel) = (Arc::new(Silent), Cancel::new());
    let notes = [NoteId::Int(id)];
    let request = PurgeRequest { root, notes: &notes, dry_run: false, reporter, cancel };
    assert!(stage::purge(request).await.unwrap().left.is_empty());
}

/// While a copy waits before its manifest, what it has sent is unnamed: a gc without any grace time leaves it alone,
/// and somebody else's publish makes the copy lose instead of being replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_gc_or_a_publish_beside_a_copy_does_no_harm() {
    let from = Root::in_memory();
    two_days(&from).await;
    let source = newest(&from).await;
    let scale = layout::calibration(&source.content.index.options_id, &source.content.space_id);
    for publishes in [false, true] {
        let inner = Arc::new(InMemory::new());
        let clear = Root::from_store(inner.clone(), "memory://to", None);
        let held_key = scale.clone();
        let faulty = Faulty::new(inner, move |operation, key| {
            (operation == "put" && key == held_key).then_some(Fault::Hold)
        });
        let (held, source_root) = (faulty.clone(), from.clone());
        let copying = tokio::spawn(async move { copy(&source_root, 2, &held.root()).await });
        while !faulty.is_holding() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let sent = keys(&clear).await;
        let retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };
        let now = clear.now().await.unwrap() + chrono::TimeDelta::seconds(2);
        let report = gc(&clear, &retention, now, false, &Protected::default()).await.unwrap();
        assert!(report.deleted.is_empty() && report.held_back > 0, "{report:?}");
        assert!(keys(&clear).await.is_superset(&sent));
        if publishes {
            publish(&clear, None, tiny(&clear, "mine").await.unwrap(), "somebody").await;
        }
        faulty.let_go();
        let copied = copying.await.unwrap();
        if publishes {
            refused(copied, ErrorKind::Conflict, "snapshot 1 by somebody");
            assert_eq!(snapshot::numbers(&clear).await.unwrap(), [1]);
        } else {
            assert_eq!(copied.unwrap().snapshot, Some(1));
            assert!(
                snapshot::verify_hashes(&clear, &newest(&clear).await, &|_| {})
                    .await
                    .unwrap()
                    .is_empty()
            );
        }
    }
}

fn place() -> Place {
    let place = Place::new();
    place.write_notes(0..40, |id| format!("note {id}"));
    place.write("a.toml", PipelineFile { root: "a", ..PipelineFile::default() }.text());
    place.write(
        "b.toml",
        PipelineFile { root: "b", model: "fake:24", ..PipelineFile::default() }.text(),
    );
    place
}

#[test]
fn the_program_copies_and_says_so() {
    let place = place();
    place.expect(0, "run a.toml");
    let report = place.json(0, "snapshot copy a.toml production --json");
    assert_eq!((&report["source"], &report["snapshot"]), (&json!(1), &json!(1)));
    assert!(report["sent_bytes"].as_u64() > Some(0), "{report}");
    place.says(0, "snapshot copy a production", &["serves the content", "already"]);
    place.says(0, "snapshot copy a other --dry-run", &["would send"]);
    place.says(0, "snapshot show production", &["copy of snapshot 1 of file://"]);
    let checked = place.json(0, "snapshot verify production --json");
    assert_eq!(checked["problems"], json!([]));
    let ask = |root: &str| -> Value {
        place.json(0, &format!("search {root} note --json"))["hits"].take()
    };
    assert_eq!(ask("a"), ask("production"));
    place.says(1, "snapshot copy a production --snapshot 7", &["snapshot 7 does not exist"]);
    place.says(1, "snapshot copy nowhere production", &["there is no root nowhere"]);
    place.says(2, "snapshot copy a ./a", &["to itself"]);
    place.says(2, "snapshot copy a a/below", &["inside the root"]);
    place.expect(0, "run b.toml");
    place.says(3, "snapshot copy b production", &["--switch-tower"]);
    place.says(0, "snapshot copy b production --switch-tower", &["snapshot 2 of", "there "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_over_the_roots_of_the_environment() {
    for uri in support::roots_of_the_environment() {
        let fresh = format!("{uri}/copied-{:08x}", rand::random::<u32>());
        let (from, cloud, back) =
            (Root::in_memory(), Root::open(&fresh).unwrap(), Root::in_memory());
        let cache = tempfile::tempdir().unwrap();
        two_days(&from).await;
        copy(&from, 1, &cloud).await.unwrap();
        copy(&from, 2, &cloud).await.unwrap();
        copy(&cloud, 2, &back).await.unwrap();
        let seen = newest_seen(&from, cache.path(), "from").await.unwrap().1;
        assert_eq!(newest_seen(&back, cache.path(), "back").await.unwrap().1, seen);
        days::found(
            &scalingnote::search::Snapshot::open(&cloud, None, cache.path()).await.unwrap(),
        );
    }
}
