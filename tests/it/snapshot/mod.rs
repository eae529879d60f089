//! Commit, rollback, diff, verify and gc on real stores, with faults and beside each other.

mod collected;
mod copied;
mod differences;
mod foreign;
mod late;
mod old_roots;
mod repaired;
mod signed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{TimeDelta, Utc};
use object_store::memory::InMemory;
use proptest::prelude::*;

use scalingnote::error::ErrorKind;
use scalingnote::snapshot::{
    CommitOutcome, Manifest, Protected, Retention, RollbackOutcome, commit, content_hash, diff,
    diff_ids, gc, newest, numbers, read, rollback, verify_hashes,
};
use scalingnote::store::{Root, layout};
use scalingnote::types::{NoteId, hash_json};

use crate::fixture::faults::{Fault, Faulty, Tally};
use crate::fixture::support::{
    keys, local, notes, provenance, publish, store_content, tiny, unit_vectors,
};

fn lost(outcome: CommitOutcome) -> Manifest {
    match outcome {
        CommitOutcome::LostTo(winner) => *winner,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn numbers_follow_and_manifests_read_back() {
    let (_folder, root) = local();
    assert!(newest(&root).await.unwrap().is_none());
    let none = read(&root, 1).await.unwrap_err();
    assert!(none.to_string().contains("no snapshots"), "{none}");
    let first = publish(&root, None, tiny(&root, "one").await.unwrap(), "a").await;
    assert_eq!((first.number, first.parent), (1, None));
    let second = publish(&root, Some(&first), tiny(&root, "two").await.unwrap(), "b").await;
    assert_eq!((second.number, second.parent), (2, Some(1)));
    assert_eq!(second.content_hash, content_hash(&second.content).unwrap());
    assert_eq!(newest(&root).await.unwrap().unwrap(), second);
    assert_eq!(read(&root, 1).await.unwrap(), first);
    assert_eq!(numbers(&root).await.unwrap(), [1, 2]);
    let missing = read(&root, 9).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("which has 1, 2"), "{missing}");
    // Committing on an old parent loses to the newest.
    let outcome =
        commit(&root, Some(&first), tiny(&root, "x").await.unwrap(), vec![], provenance("c"));
    assert_eq!(lost(outcome.await.unwrap()), second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_publishers_one_wins_and_all_agree_on_who() {
    let (_folder, disk) = local();
    for root in [Root::in_memory(), disk] {
        let parent = publish(&root, None, tiny(&root, "parent").await.unwrap(), "p").await;
        let publishers = (0..16).map(|at| {
            let (root, parent) = (root.clone(), parent.clone());
            tokio::spawn(async move {
                let content = tiny(&root, &format!("content {at}")).await.unwrap();
                let run = provenance(&format!("run {at}"));
                commit(&root, Some(&parent), content, vec![], run).await.unwrap()
            })
        });
        let mut runs = BTreeSet::new();
        let mut winners = 0;
        for outcome in futures::future::join_all(publishers).await {
            match outcome.unwrap() {
                CommitOutcome::Committed(manifest) => {
                    winners += 1;
                    runs.insert(manifest.provenance.run.clone());
                }
                CommitOutcome::LostTo(winner) => {
                    runs.insert(winner.provenance.run);
                }
                CommitOutcome::Blocked { by } => panic!("blocked by {by}"),
            }
        }
        assert_eq!((winners, runs.len()), (1, 1));
        assert_eq!(numbers(&root).await.unwrap(), [1, 2]);
        assert!(root.list(layout::LEASES).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn nothing_is_published_that_is_not_there() {
    let (_folder, root) = local();
    let content = tiny(&root, "here").await.unwrap();
    let mut missing = content.clone();
    missing.shards[0].ids.path = layout::ids_file("0123456789abcdef", 0, "0000000000000000");
    let error = commit(&root, None, missing, vec![], provenance("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "a run makes it again");
    let mut truncated = content.clone();
    truncated.shards[0].ids.size += 1;
    let error = commit(&root, None, truncated, vec![], provenance("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let mut hostile = content.clone();
    hostile.shards[0].ids.path = "../../etc/passwd".to_owned();
    let error = commit(&root, None, hostile, vec![], provenance("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let mut miscounted = content;
    miscounted.notes = 7;
    let error = commit(&root, None, miscounted, vec![], provenance("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(numbers(&root).await.unwrap().is_empty());
    assert!(root.list(layout::LEASES).await.unwrap().is_empty());
}

/// Writes a manifest's bytes as they are, past every check.
async fn plant(root: &Root, number: u64, manifest: &serde_json::Value) {
    root.put(&layout::manifest(number), manifest.to_string().into()).await.unwrap();
}

#[tokio::test]
async fn altered_manifests_are_refused_by_name() {
    let source = Root::in_memory();
    let good = publish(&source, None, tiny(&source, "good").await.unwrap(), "r").await;
    let good = serde_json::to_value(&good).unwrap();
    type Alter = fn(&mut serde_json::Value);
    // The content's hash is made to fit again, so that only the named check can refuse.
    let cases: [(&str, ErrorKind, bool, Alter); 8] = [
        ("another number", ErrorKind::Corrupt, false, |m| m["number"] = 2.into()),
        ("a newer format", ErrorKind::Unsupported, false, |m| m["version"] = 99.into()),
        ("an unknown field", ErrorKind::Unsupported, false, |m| m["surprise"] = 1.into()),
        ("altered content", ErrorKind::Corrupt, false, |m| {
            m["content"]["stored_columns"] = serde_json::json!(["x"]);
        }),
        ("a hostile path", ErrorKind::Corrupt, true, |m| {
            m["content"]["shards"][0]["ids"]["path"] = "../../etc/passwd".into();
        }),
        ("a miscount", ErrorKind::Corrupt, true, |m| m["content"]["notes"] = 5.into()),
        ("another space", ErrorKind::Corrupt, true, |m| {
            m["content"]["space"]["max_tokens"] = 7.into();
        }),
        ("a missing shard", ErrorKind::Corrupt, true, |m| m["content"]["shard_count"] = 9.into()),
    ];
    for (what, kind, rehash, alter) in cases {
        let root = Root::in_memory();
        let mut manifest = good.clone();
        alter(&mut manifest);
        if rehash {
            manifest["content_hash"] =
                serde_json::to_value(hash_json(&manifest["content"]).unwrap()).unwrap();
        }
        plant(&root, 1, &manifest).await;
        let error = newest(&root).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        assert!(error.to_string().contains(&layout::manifest(1)), "{what}: {error}");
    }
    // Unaltered, the same bytes are fine.
    let root = Root::in_memory();
    plant(&root, 1, &good).await;
    assert!(newest(&root).await.unwrap().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes a manifest is damaged to: an error, never a panic, never another content.
    #[test]
    fn a_damaged_manifest_never_passes(place: prop::sample::Index, value: u8, cut in 0usize..3) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let source = Root::in_memory();
            let good = publish(&source, None, tiny(&source, "good").await.unwrap(), "r").await;
            let mut bytes = source.get(&layout::manifest(1)).await.unwrap().to_vec();
            let at = place.index(bytes.len());
            if cut == 0 { bytes.truncate(at) } else { bytes[at] = value }
            let root = Root::in_memory();
            root.put(&layout::manifest(1), bytes.into()).await.unwrap();
            if let Ok(read) = read(&root, 1).await {
                prop_assert_eq!(read.content, good.content);
            }
            Ok(())
        })?;
    }

    /// The hash names what readers parse, for every float of a sane size.
    #[test]
    fn contents_hash_as_they_are_read(exponent in -20.0f64..20.0, small: f32) {
        let scale = 10f64.powf(exponent);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let root = Root::in_memory();
            let mut content = tiny(&root, "floats").await.unwrap();
            content.index.calibration = serde_json::json!({"scale": small, "clipped": scale});
            let hash = content_hash(&content).unwrap();
            let manifest = publish(&root, None, content, "r").await;
            prop_assert_eq!(hash, manifest.content_hash);
            prop_assert_eq!(read(&root, 1).await.unwrap(), manifest.clone());
            prop_assert_eq!(content_hash(&manifest.content).unwrap(), hash);
            Ok(())
        })?;
    }
}

/// Fails the first put of a manifest in the given way.
fn faulty_commit(inner: &Arc<InMemory>, fault: Fault) -> Root {
    let mut left = 1;
    Faulty::new(Arc::clone(inner) as _, move |operation, path| {
        let hit = left > 0 && operation == "put" && layout::manifest_number(path).is_some();
        left -= i32::from(hit);
        hit.then_some(fault)
    })
    .root()
}

#[tokio::test]
async fn a_lost_acknowledgement_is_a_commit_and_a_refusal_is_none() {
    let inner = Arc::new(InMemory::new());
    let root = faulty_commit(&inner, Fault::After);
    let first = publish(&root, None, tiny(&root, "one").await.unwrap(), "a").await;
    assert_eq!(newest(&root).await.unwrap().unwrap(), first);

    let root = faulty_commit(&inner, Fault::Before);
    let content = tiny(&root, "two").await.unwrap();
    let failed = commit(&root, Some(&first), content.clone(), vec![], provenance("b")).await;
    assert!(failed.unwrap_err().is_retryable());
    assert_eq!(numbers(&root).await.unwrap(), [1]);
    assert!(root.list(layout::LEASES).await.unwrap().is_empty());
    let second = publish(&root, Some(&first), content.clone(), "b").await;

    // A task that was killed after its commit is run again with the parent it knew.
    let again =
        commit(&root, Some(&first), content.clone(), vec![], provenance("b")).await.unwrap();
    assert_eq!(again, CommitOutcome::Committed(Box::new(second.clone())));
    // Another run with the same content lost all the same.
    let other = commit(&root, Some(&first), content, vec![], provenance("z")).await.unwrap();
    assert_eq!(lost(other), second);
}

#[tokio::test]
async fn a_store_that_denies_an_object_publishes_nothing_and_gc_takes_nothing_for_it() {
    let inner = Arc::new(InMemory::new());
    let plain = Root::from_store(Arc::clone(&inner) as _, "memory://", None);
    let first = publish(&plain, None, tiny(&plain, "one").await.unwrap(), "a").await;
    let content = tiny(&plain, "two").await.unwrap();
    let denied = content.shards[0].ids.path.clone();
    let root = Faulty::new(Arc::clone(&inner) as _, move |operation, path| {
        (operation == "get" && path == denied).then_some(Fault::NotFound)
    })
    .root();
    let error = commit(&root, Some(&first), content, vec![], provenance("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(numbers(&plain).await.unwrap(), [1]);

    // A gc that cannot read a retained manifest stops, whatever the reason.
    let retained = layout::manifest(1);
    let root = Faulty::new(Arc::clone(&inner) as _, move |operation, path| {
        (operation == "get" && path == retained).then_some(Fault::NotFound)
    })
    .root();
    let strict = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };
    let before = keys(&plain).await;
    let now = Utc::now() + TimeDelta::hours(1);
    assert!(gc(&root, &strict, now, false, &Protected::default()).await.is_err());
    assert_eq!(keys(&plain).await, before);
}

/// Many publishers on a store that fails often: every manifest has one author who knows it, none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_lose_nothing_and_duplicate_nothing() {
    let mut faults_seen = 0;
    for seed in 0..40u64 {
        let inner = Arc::new(InMemory::new());
        let publishers = (0..3u64).map(|who| {
            let store =
                Faulty::random(Arc::clone(&inner) as _, 0.12, seed * 10 + who, Tally::default());
            tokio::spawn(async move {
                let root = store.root();
                let mut errors = 0u64;
                for day in 0..4 {
                    let tag = format!("{who}/{day}");
                    // Runs again until its content was the newest once, as cron does.
                    while !try_publish(&root, &tag, &mut errors).await {
                        assert!(errors < 10_000, "never gets through");
                    }
                }
                errors
            })
        });
        for done in futures::future::join_all(publishers).await {
            faults_seen += done.unwrap();
        }
        let root = Root::from_store(inner as _, "memory://", None);
        let all = numbers(&root).await.unwrap();
        assert_eq!(all, (1..=12).collect::<Vec<u64>>(), "seed {seed}: one number a publish");
        let mut runs = BTreeSet::new();
        for number in all {
            let manifest = read(&root, number).await.unwrap();
            assert_eq!(manifest.parent, (number > 1).then(|| number - 1), "seed {seed}");
            assert!(runs.insert(manifest.provenance.run.clone()), "seed {seed}: published twice");
            assert!(verify_hashes(&root, &manifest, &|_| {}).await.unwrap().is_empty());
        }
    }
    println!("40 schedules, {faults_seen} failed attempts");
    assert!(faults_seen > 400, "the faults must be felt: {faults_seen}");
}

async fn try_publish(root: &Root, tag: &str, errors: &mut u64) -> bool {
    let attempt = async {
        let newest = newest(root).await?;
        // An attempt whose acknowledgement was lost may lie further back by now.
        for number in numbers(root).await? {
            if read(root, number).await?.provenance.run == tag {
                return Ok(true);
            }
        }
        let content = tiny(root, tag).await?;
        match commit(root, newest.as_ref(), content, vec![], provenance(tag)).await? {
            CommitOutcome::Committed(_) => Ok(true),
            _ => Ok(false),
        }
    };
    match attempt.await {
        Ok(done) => done,
        Err(error) => {
            let error: scalingnote::error::Error = error;
            assert!(error.is_retryable(), "{error:?}");
            *errors += 1;
            false
        }
    }
}

#[tokio::test]
async fn rollback_blocks_what_it_undoes_until_it_is_chosen_again() {
    let (_folder, root) = local();
    let good = tiny(&root, "good").await.unwrap();
    let bad = tiny(&root, "bad").await.unwrap();
    let first = publish(&root, None, good.clone(), "day 1").await;
    let second = publish(&root, Some(&first), bad.clone(), "day 2").await;
    let rolled = match rollback(&root, 1, provenance("rollback to 1")).await.unwrap() {
        RollbackOutcome::Committed(manifest) => *manifest,
        other => panic!("{other:?}"),
    };
    assert_eq!((rolled.number, rolled.parent), (3, Some(2)));
    assert_eq!(rolled.content_hash, first.content_hash);
    assert_eq!(rolled.blocked, [second.content_hash]);
    // Tomorrow's run does not bring it back, and neither does the day after.
    let outcome = commit(&root, Some(&rolled), bad.clone(), vec![], provenance("day 3")).await;
    assert_eq!(outcome.unwrap(), CommitOutcome::Blocked { by: 3 });
    let better = publish(&root, Some(&rolled), tiny(&root, "better").await.unwrap(), "day 4").await;
    assert_eq!(better.blocked, [second.content_hash]);
    let outcome = commit(&root, Some(&better), bad, vec![], provenance("day 5")).await;
    assert_eq!(outcome.unwrap(), CommitOutcome::Blocked { by: 3 }, "the rollback is named");
    // A person may choose it again.
    let forward = rollback(&root, 2, provenance("rollback to 2")).await.unwrap();
    let RollbackOutcome::Committed(forward) = forward else { panic!("{forward:?}") };
    assert_eq!(forward.content_hash, second.content_hash);
    assert!(!forward.blocked.contains(&second.content_hash));
    assert!(forward.blocked.contains(&better.content_hash));

    // Once more, by either of its numbers, is nothing to do.
    for number in [2, forward.number] {
        let same = rollback(&root, number, provenance("again")).await.unwrap();
        assert_eq!(same, RollbackOutcome::AlreadyServed(forward.clone()));
    }
    assert_eq!(newest(&root).await.unwrap().unwrap(), *forward);
    assert_eq!(rollback(&root, 77, provenance("x")).await.unwrap_err().kind(), ErrorKind::NotFound);
    root.delete(&first.content.shards[0].ids.path).await.unwrap();
    let gone = rollback(&root, 1, provenance("x")).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "objects are looked up before the commit");
}

#[tokio::test]
async fn differences_are_counted_note_by_note() {
    let (_folder, root) = local();
    let mut corpus = notes(&unit_vectors(60, 8, 3));
    let first = publish(&root, None, store_content(&root, &corpus, 4).await, "a").await;
    let same = diff_ids(&root, &first, &first, 5).await.unwrap();
    assert_eq!((same.added, same.removed, same.changed), (0, 0, 0));

    corpus.retain(|chunk| chunk.note != NoteId::Int(7));
    corpus[20].text = "edited".to_owned();
    let edited = corpus[20].note.to_string();
    let mut new = corpus[3].clone();
    new.note = NoteId::Str("new".to_owned());
    corpus.push(new);
    let mut second_chunk = corpus[30].clone();
    second_chunk.chunk = 1;
    let grown = second_chunk.note.to_string();
    corpus.push(second_chunk);

    for shard_count in [4, 3] {
        let content = store_content(&root, &corpus, shard_count).await;
        let parent = newest(&root).await.unwrap().unwrap();
        let second = publish(&root, Some(&parent), content, &shard_count.to_string()).await;
        let changes = diff_ids(&root, &first, &second, 5).await.unwrap();
        assert_eq!((changes.added, changes.removed, changes.changed), (1, 1, 2));
        assert_eq!(changes.added_ids, ["s:new"]);
        assert_eq!(changes.removed_ids, ["i:7"]);
        let mut expected = vec![edited.clone(), grown.clone()];
        expected.sort();
        assert_eq!(changes.changed_ids, expected);
        let manifests = diff(&first, &second);
        assert_eq!((manifests.notes, manifests.vectors), ([60, 60], [60, 61]));
        assert!(!manifests.ids_changed.is_empty() && manifests.space_changed.is_empty());
        let none = diff_ids(&root, &first, &second, 0).await.unwrap();
        assert!(none.changed_ids.is_empty() && none.changed == 2);
    }
}

#[tokio::test]
async fn verify_names_every_damaged_file() {
    let (folder, root) = local();
    let corpus = notes(&unit_vectors(20, 8, 4));
    let manifest = publish(&root, None, store_content(&root, &corpus, 1).await, "a").await;
    let seen = AtomicU64::new(0);
    let count = |bytes| {
        seen.fetch_add(bytes, Ordering::Relaxed);
    };
    assert!(verify_hashes(&root, &manifest, &count).await.unwrap().is_empty());
    let total: u64 = manifest.content.files().map(|file| file.size).sum();
    assert_eq!(seen.into_inner(), total);

    let shard = &manifest.content.shards[0];
    let path = |key: &str| folder.path().join(key);
    let index = path(&shard.index.as_ref().unwrap().path);
    let mut bytes = std::fs::read(&index).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&index, bytes).unwrap();
    std::fs::write(path(&shard.sidecar.as_ref().unwrap().path), b"short").unwrap();
    std::fs::remove_file(path(&shard.parts[0])).unwrap();
    let problems = verify_hashes(&root, &manifest, &|_| {}).await.unwrap();
    let text: Vec<String> = problems.iter().map(|p| format!("{} {}", p.path, p.problem)).collect();
    assert_eq!(text.len(), 3, "{text:?}");
    assert!(text.iter().any(|t| t.contains(".usearch it has SHA-256")), "{text:?}");
    assert!(text.iter().any(|t| t.contains(".f16 it has 5 bytes")), "{text:?}");
    assert!(text.iter().any(|t| t.contains(".parquet it is missing")), "{text:?}");
}
