//! A second snapshot beside the one in service: cheap or not at all, one at a time, and gone when it is not needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use scalingnote::error::ErrorKind;
use scalingnote::search::{Serving, SnapshotWatcher};
use scalingnote::store::Root;

use super::watcher::{cached, corpus, options};
use crate::fixture::support::{publish, store_content};

const PLENTY: u64 = 1 << 30;

/// Opens another one as soon as that may be.
async fn beside(watcher: &SnapshotWatcher, number: u64) -> Arc<Serving> {
    loop {
        match watcher.beside(number, PLENTY).await {
            Ok(open) => return open,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_open_at_a_time_and_goes_with_the_next_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::open(folder.path().join("root").to_str().unwrap()).unwrap();
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let watcher = SnapshotWatcher::new(root.clone(), options(&cache)).unwrap();
    let none = watcher.beside(1, PLENTY).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Transient, "{none}");

    let mut newest = None;
    for seed in 1..=3 {
        let content = store_content(&root, &corpus(seed), 2).await;
        newest = Some(publish(&root, newest.as_ref(), content, &format!("run {seed}")).await);
    }
    watcher.look().await.unwrap();
    let before = cached(&cache);
    // Looks beside it leave what is fetched alone.
    let (second, looked) = tokio::join!(beside(&watcher, 1), watcher.look());
    assert!(!looked.unwrap());
    let old = corpus(1);
    let found = second.snapshot.search_vector(&old[7].vector, 1, false).unwrap();
    assert_eq!((second.snapshot.manifest().number, &found[0].note_id), (1, &old[7].note));
    assert_eq!(watcher.status().open, 2);
    assert!(Arc::ptr_eq(&second, &watcher.beside(1, 0).await.unwrap()), "it is open already");
    assert!(cached(&cache).len() > before.len());
    drop(second);
    assert_eq!(watcher.status().open, 2, "it is kept for the next");
    // The one in service is no second one.
    let current = watcher.current().unwrap();
    assert!(Arc::ptr_eq(&current, &beside(&watcher, 3).await));

    let other = beside(&watcher, 2).await;
    assert_eq!((other.snapshot.manifest().number, watcher.status().open), (2, 2));
    let missing = loop {
        let error = watcher.beside(9, PLENTY).await.unwrap_err();
        if error.kind() != ErrorKind::Transient {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    drop(other);
    beside(&watcher, 2).await;

    drop(current);
    let content = store_content(&root, &corpus(4), 2).await;
    let fourth = publish(&root, newest.as_ref(), content, "run 4").await;
    assert!(watcher.look().await.unwrap());
    assert_eq!((fourth.number, watcher.status().open), (4, 1), "the second one is let go");
    let named: BTreeSet<String> =
        fourth.content.files().map(scalingnote::store::FileRef::cached_name).collect();
    assert!(cached(&cache).is_subset(&named), "and so are its copies");
    beside(&watcher, 1).await;
    watcher.close().await;
    assert_eq!(watcher.status().open, 0);
    let closed = watcher.beside(1, PLENTY).await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Transient, "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_not_open_yet_counts_and_too_much_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::open(folder.path().join("root").to_str().unwrap()).unwrap();
    let first = publish(&root, None, store_content(&root, &corpus(1), 2).await, "run 1").await;
    let second =
        publish(&root, Some(&first), store_content(&root, &corpus(2), 2).await, "run 2").await;
    let again = store_content(&root, &corpus(2), 2).await;
    let mut again = again;
    again.stored_columns.clear();
    let third = publish(&root, Some(&second), again, "run 3").await;
    let watcher = SnapshotWatcher::new(root, options(&folder.path().join("cache"))).unwrap();
    watcher.look().await.unwrap();
    assert_eq!(third.number, 3);
    // Snapshot 2 has the files of snapshot 3.
    watcher.beside(2, 0).await.unwrap();
    let refused = loop {
        let error = watcher.beside(1, 4_096).await.unwrap_err();
        if error.kind() != ErrorKind::Transient {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(refused.kind(), ErrorKind::Input, "{refused}");
    assert!(refused.to_string().contains("at most 4.0 KiB are allowed"), "{refused}");
    assert_eq!(watcher.status().open, 1, "the one before is let go first");
}
