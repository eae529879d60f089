//! What gc takes and what it leaves, killed anywhere and beside publishers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use object_store::memory::InMemory;

use scalingnote::error::ErrorKind;
use scalingnote::snapshot::{
    CommitOutcome, Manifest, Protected, Retention, commit, gc, newest, numbers, read, verify_hashes,
};
use scalingnote::store::{Root, layout};

use super::{keys, local};
use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::support::{notes, provenance, publish, store_content, tiny, unit_vectors};

const DAY: i64 = 24;

fn run_id(day: u64) -> String {
    format!("20260101T00000{day}Z-0badcafe")
}

/// What is in the root, and at which hour it was written: a store's clock cannot be set, so `now` moves instead.
async fn gc_at(root: &Root, hours: i64, retention: &Retention, dry: bool) -> Vec<String> {
    let now = Utc::now() + TimeDelta::hours(hours);
    let report = gc(root, retention, now, dry, &Protected::default()).await.unwrap();
    assert_eq!(report.dry_run, dry);
    report.deleted
}

/// Every manifest's files are there, and no receipt names a file that is not.
async fn consistent(root: &Root) {
    let there = keys(root).await;
    for number in numbers(root).await.unwrap() {
        for file in read(root, number).await.unwrap().content.files() {
            assert!(there.contains(&file.path), "snapshot {number} misses {}", file.path);
        }
    }
    for receipt in there.iter().filter(|key| layout::is_receipt(key)) {
        let text = String::from_utf8(root.get(receipt).await.unwrap().to_vec()).unwrap();
        for part in text.split('"').filter(|part| part.starts_with("embeddings/")) {
            if part.ends_with(".parquet") {
                assert!(there.contains(part), "{receipt} names {part}, which is gone");
            }
        }
    }
}

#[tokio::test]
async fn gc_keeps_what_is_retained_young_or_protected_and_nothing_else() {
    let (folder, root) = local();
    let mut parent: Option<Manifest> = None;
    for day in 0..4u64 {
        let corpus = notes(&unit_vectors(12, 8, 100 + day));
        let content = store_content(&root, &corpus, 2).await;
        parent = Some(publish(&root, parent.as_ref(), content, &format!("run-{day}")).await);
        let plan = serde_json::json!({"parts": []});
        let key = layout::plan(&run_id(day));
        root.put(&key, plan.to_string().into()).await.unwrap();
        let prepared = layout::prepared(&run_id(day), 0);
        root.put(&prepared, Bytes::from_static(b"text")).await.unwrap();
    }
    root.put("foreign/readme.txt", Bytes::from_static(b"not ours")).await.unwrap();
    let (prepared, plan) = (layout::prepared(&run_id(0), 0), layout::plan(&run_id(0)));
    let torn = folder.path().join(format!("{plan}#99"));
    std::fs::write(torn, b"torn").unwrap();
    let all = keys(&root).await;
    let retention = Retention { snapshots: 2, grace_hours: 24, runs_days: 7 };

    assert!(gc_at(&root, 1, &retention, false).await.is_empty(), "everything is young");
    let dry = gc_at(&root, 2 * DAY, &retention, true).await;
    assert_eq!(keys(&root).await, all, "a dry run deletes nothing");
    assert_eq!(gc_at(&root, 2 * DAY, &retention, false).await, dry, "and says what would go");
    // Manifests first, then receipts before what they name.
    assert_eq!(dry[..2], [layout::manifest(1), layout::manifest(2)]);
    assert_eq!(numbers(&root).await.unwrap(), [3, 4]);
    consistent(&root).await;
    let left = keys(&root).await;
    assert!(dry.iter().any(|key| key.ends_with(".usearch")));
    let parts = |keys: &BTreeSet<String>| keys.iter().filter(|k| k.starts_with("emb")).count();
    assert_eq!(parts(&left), parts(&all), "embeddings may be wanted by a run that resumes");
    assert!(left.contains(&prepared));

    let late = gc_at(&root, 8 * DAY, &retention, false).await;
    assert!(late.iter().any(|key| key.starts_with("embeddings/")));
    assert!(late.contains(&prepared));
    assert!(late.contains(&plan));
    consistent(&root).await;
    let left = keys(&root).await;
    assert!(left.contains("foreign/readme.txt"));
    assert_eq!(left.iter().filter(|key| key.starts_with("indexes/")).count(), 2 * 2 * 4 + 1);
    assert!(gc_at(&root, 9 * DAY, &retention, false).await.is_empty(), "nothing is left to do");
    assert!(
        !folder.path().join(plan).parent().unwrap().exists(),
        "not even a torn write or its folder"
    );
    let newest = newest(&root).await.unwrap().unwrap();
    assert!(verify_hashes(&root, &newest, &|_| {}).await.unwrap().is_empty());
}

#[tokio::test]
async fn gc_respects_plans_leases_and_unreadable_manifests() {
    let root = Root::in_memory();
    let first = publish(&root, None, tiny(&root, "one").await.unwrap(), "a").await;
    let second = publish(&root, Some(&first), tiny(&root, "two").await.unwrap(), "b").await;
    let mine = tiny(&root, "wanted by a plan").await.unwrap().shards[0].ids.clone();
    let other = tiny(&root, "wanted by nobody").await.unwrap().shards[0].ids.clone();
    let leased = tiny(&root, "leased").await.unwrap().shards[0].ids.clone();
    let plan = serde_json::json!({"tasks": [{"ids": {"path": mine.path}}]});
    root.put(&layout::plan(&run_id(9)), plan.to_string().into()).await.unwrap();
    let retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 7 };
    let now = Utc::now() + TimeDelta::hours(DAY);
    let protected = Protected {
        snapshots: BTreeSet::from([first.number]),
        runs: BTreeSet::new(),
        keys: BTreeSet::from([leased.path.clone()]),
        ..Protected::default()
    };
    let report = gc(&root, &retention, now, false, &protected).await.unwrap();
    assert_eq!(report.deleted, [other.path]);
    assert_eq!(report.kept_snapshots, [1, 2]);

    // Unsure is not a reason to delete.
    let bad = Root::in_memory();
    let content = tiny(&bad, "orphan").await.unwrap();
    bad.put(&layout::manifest(1), Bytes::from_static(b"{}")).await.unwrap();
    let refused = gc(&bad, &retention, now, false, &Protected::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(bad.size(&content.shards[0].ids.path).await.unwrap().is_some());
    assert_eq!(second.number, 2);
}

#[tokio::test]
async fn a_snapshot_superseded_a_moment_ago_stays_for_its_readers() {
    let root = Root::in_memory();
    let mut parent = None;
    for day in 0..3 {
        let content = tiny(&root, &day.to_string()).await.unwrap();
        parent = Some(publish(&root, parent.as_ref(), content, "r").await);
    }
    let strict = Retention { snapshots: 1, grace_hours: 24, runs_days: 1 };
    assert!(gc_at(&root, DAY - 1, &strict, false).await.is_empty());
    gc_at(&root, DAY + 1, &strict, false).await;
    assert_eq!(numbers(&root).await.unwrap(), [3]);
}

/// A gc that dies at any of its deletes leaves a root that is consistent and that the next gc finishes.
#[tokio::test]
async fn a_gc_killed_anywhere_leaves_nothing_that_names_a_missing_file() {
    let retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };
    let now = Utc::now() + TimeDelta::minutes(30);
    let mut finished = BTreeSet::new();
    for stop_at in 0.. {
        let inner = Arc::new(InMemory::new());
        let plain = Root::from_store(Arc::clone(&inner) as _, "memory://", None);
        let mut parent = None;
        for day in 0..3u64 {
            let corpus = notes(&unit_vectors(6, 4, day));
            let content = store_content(&plain, &corpus, 2).await;
            parent = Some(publish(&plain, parent.as_ref(), content, "r").await);
        }
        let mut deletes = 0;
        let dying = Faulty::new(Arc::clone(&inner) as _, move |operation, path| {
            let counts = operation == "delete" && !path.starts_with(layout::LEASES);
            deletes += i32::from(counts);
            (counts && deletes > stop_at).then_some(Fault::Before)
        });
        let outcome = gc(&dying.root(), &retention, now, false, &Protected::default()).await;
        consistent(&plain).await;
        let resumed = gc(&plain, &retention, now, false, &Protected::default()).await.unwrap();
        consistent(&plain).await;
        finished.insert(keys(&plain).await);
        assert_eq!(numbers(&plain).await.unwrap(), [3]);
        if outcome.is_ok() {
            assert!(resumed.deleted.is_empty());
            assert!(stop_at > 20, "there was something to delete: {stop_at}");
            break;
        }
    }
    assert_eq!(finished.len(), 1, "wherever it stopped, the end is the same");
}

/// Publishers that adopt old unreferenced objects beside a gc that deletes those: what is committed is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gc_beside_publishes_never_deletes_what_is_committed() {
    let root = Root::in_memory();
    let retention = Retention { snapshots: 2, grace_hours: 0, runs_days: 0 };
    let publishing = Arc::new(AtomicU64::new(3));
    let publishers = (0..3u64).map(|who| {
        let (root, publishing) = (root.clone(), Arc::clone(&publishing));
        tokio::spawn(async move {
            let mut published = 0u64;
            for day in 0..25 {
                // Every tag comes back: its object may be there from an earlier day, long unreferenced.
                let tag = format!("content {}", (day + who) % 5);
                loop {
                    let parent = newest(&root).await.unwrap();
                    let content = tiny(&root, &tag).await.unwrap();
                    tokio::task::yield_now().await;
                    let run = provenance(&format!("{who}/{day}"));
                    match commit(&root, parent.as_ref(), content, vec![], run).await {
                        Ok(CommitOutcome::Committed(_)) => break,
                        Ok(_) => {}
                        // The gc was first: made again, committed next time.
                        Err(error) if error.kind() == ErrorKind::Transient => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                published += 1;
            }
            publishing.fetch_sub(1, Ordering::SeqCst);
            published
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let collector = tokio::spawn({
        let root = root.clone();
        async move {
            let (mut rounds, mut deleted, mut last) = (0u64, 0, false);
            // On a busy machine 400 rounds may be over before anything is published: the last one comes after it all.
            while !(last && rounds >= 400) {
                let over = publishing.load(Ordering::SeqCst) == 0;
                let now = Utc::now() + TimeDelta::minutes(30);
                let report = match gc(&root, &retention, now, false, &Protected::default()).await {
                    Ok(report) => report,
                    // A manifest went between the listing and the read: another round.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => panic!("{error:?}"),
                };
                deleted += report.deleted.len();
                (rounds, last) = (rounds + 1, over);
                let current = newest(&root).await.unwrap();
                for file in current.iter().flat_map(|manifest| manifest.content.files()) {
                    let there = root.size(&file.path).await.unwrap().is_some();
                    let replaced = newest(&root).await.unwrap().map(|m| m.number)
                        != current.as_ref().map(|m| m.number);
                    assert!(there || replaced, "{} is gone", file.path);
                }
                tokio::task::yield_now().await;
            }
            deleted
        }
    });
    let mut published = 0;
    for publisher in publishers {
        published += publisher.await.unwrap();
    }
    let deleted = collector.await.unwrap();
    assert_eq!(newest(&root).await.unwrap().unwrap().number, published);
    assert!(deleted > 50, "the gc must have had work: {deleted}");
    consistent(&root).await;
}

#[test]
fn the_report_is_plain_json() {
    let report = scalingnote::snapshot::GcReport::default();
    let json: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(serde_json::to_value(&report).unwrap()).unwrap();
    assert!(json.contains_key("deleted_bytes") && json.contains_key("dry_run"));
}
