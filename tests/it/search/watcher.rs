//! The watcher: takes over what is whole, keeps what it has where the newer one is not, clears its cache.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scalingnote::error::ErrorKind;
use scalingnote::search::{SnapshotWatcher, WatchOptions};
use scalingnote::snapshot::{Content, Manifest, rollback};
use scalingnote::store::layout::{self, Key};
use scalingnote::store::{FileRef, Root};
use scalingnote::types::HexKey;

use crate::fixture::support::{
    Chunk, local, notes, provenance, publish, store_content, unit_vectors,
};

pub(super) fn options(cache: &Path) -> WatchOptions {
    WatchOptions {
        // So long that only `look` looks; short ones are tried in `serve`.
        every: Duration::from_millis(1),
        cache: cache.to_owned(),
        in_place: false,
        tower: None,
        first: None,
    }
}

pub(super) fn corpus(seed: u64) -> Vec<Chunk> {
    notes(&unit_vectors(60, 8, seed))
}

/// Only the first `edited` notes differ from `corpus(1)`.
fn edited(edited: usize) -> Vec<Chunk> {
    let (mut all, other) = (corpus(1), corpus(99));
    for (chunk, other) in all.iter_mut().zip(other).take(edited) {
        (chunk.vector, chunk.text) = (other.vector, other.text);
    }
    all
}

fn in_service(watcher: &SnapshotWatcher) -> Option<u64> {
    watcher.current().map(|serving| serving.snapshot.manifest().number)
}

async fn next(root: &Root, parent: &Manifest, content: Content) -> Manifest {
    publish(root, Some(parent), content, &format!("run {}", parent.number + 1)).await
}

#[tokio::test]
async fn newer_snapshots_and_rollbacks_are_followed() {
    let (_folder, root) = local();
    // Without a copy there is nothing to keep in a cache, and a lease for as long as a snapshot is open.
    let in_place = WatchOptions { in_place: true, ..options(Path::new("/nonexistent")) };
    let watcher = SnapshotWatcher::new(root.clone(), in_place).unwrap();
    assert!(!watcher.look().await.unwrap());
    assert!(watcher.current().is_none() && watcher.status().looked.is_some());

    let first = publish(&root, None, store_content(&root, &corpus(1), 2).await, "run 1").await;
    assert!(watcher.look().await.unwrap());
    assert!(!watcher.look().await.unwrap(), "there is nothing newer");
    let held = watcher.current().unwrap();
    let second = next(&root, &first, store_content(&root, &corpus(2), 2).await).await;
    assert!(watcher.look().await.unwrap());
    assert_eq!((in_service(&watcher), watcher.status().open), (Some(2), 2));
    // Who holds the old one searches it as before.
    let old = corpus(1);
    assert_eq!(held.snapshot.manifest().number, 1);
    let found = held.snapshot.search_vector(&old[7].vector, 1, false).unwrap();
    assert_eq!(found[0].note_id, old[7].note);
    drop(held);
    assert_eq!(watcher.status().open, 1);

    assert_eq!(second.number, 2);
    rollback(&root, 1, provenance("rollback to 1")).await.unwrap();
    assert!(watcher.look().await.unwrap());
    let now = watcher.current().unwrap();
    assert_eq!(now.snapshot.manifest().number, 3);
    assert_eq!(now.snapshot.manifest().content_hash, first.content_hash);
    assert_eq!((watcher.status().swaps, watcher.status().failures), (3, 0));

    // What is open has a lease; what was let go has none.
    let leases = async || {
        let listed = root.list("leases").await.unwrap();
        let readers = listed.into_iter().filter_map(|lease| match layout::parse(&lease.key)? {
            Key::ReaderLease { snapshot, .. } => Some(snapshot),
            _ => None,
        });
        readers.collect::<Vec<_>>()
    };
    for _ in 0..500 {
        if leases().await == [3] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(leases().await, [3]);
    drop(now);
    watcher.close().await;
    assert!(leases().await.is_empty() && watcher.current().is_none());
}

/// Every way in which a newer snapshot can be broken; the one before stays in service.
#[tokio::test]
async fn a_broken_newer_snapshot_is_told_and_the_old_one_stays() {
    let (folder, root) = local();
    let cache = tempfile::tempdir().unwrap();
    let watcher = SnapshotWatcher::new(root.clone(), options(cache.path())).unwrap();
    let mut newest = publish(&root, None, store_content(&root, &corpus(1), 2).await, "run 1").await;
    watcher.look().await.unwrap();

    // One flipped bit: size and structure are right.
    let content = store_content(&root, &corpus(2), 2).await;
    let sidecar = content.shards[0].sidecar.clone().unwrap();
    let path = folder.path().join(&sidecar.path);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    replace(&path, &bad);
    newest = next(&root, &newest, content).await;
    let failures = broken(&watcher, "SHA-256").await;
    // Mended, it is taken over at the next attempt.
    replace(&path, &good);
    until_in_service(&watcher, newest.number).await;
    assert!(watcher.status().failure.is_none() && watcher.status().failures >= failures);

    // The index and sidecar of other vectors under the same keys: only the canaries notice.
    let own = store_content(&root, &corpus(3), 1).await;
    let mut other = store_content(&root, &corpus(4), 1).await;
    other.shards[0].canaries = own.shards[0].canaries.clone();
    newest = next(&root, &newest, other).await;
    broken(&watcher, "canary").await;

    // A canary that nobody could answer.
    let mut unknown = own.clone();
    unknown.shards[0].canaries.truncate(1);
    unknown.shards[0].canaries[0].key = HexKey(12_345);
    newest = next(&root, &newest, unknown).await;
    broken(&watcher, "canary").await;

    // An ids file of other notes.
    let shifted: Vec<Chunk> = corpus(3).into_iter().rev().take(30).collect();
    let mut mixed = own.clone();
    mixed.shards[0].ids = store_content(&root, &shifted, 1).await.shards[0].ids.clone();
    newest = next(&root, &newest, mixed).await;
    broken(&watcher, "ids file").await;

    // A file that is gone.
    let gone = store_content(&root, &corpus(5), 1).await;
    let path = folder.path().join(&gone.shards[0].ids.path);
    newest = next(&root, &newest, gone).await;
    std::fs::remove_file(path).unwrap();
    broken(&watcher, "missing").await;

    // A torn manifest.
    let path = folder.path().join(format!("snapshots/{:020}.json", newest.number + 1));
    std::fs::write(&path, b"{\"version\": 1, \"num").unwrap();
    broken(&watcher, "manifest").await;
    std::fs::remove_file(path).unwrap();

    // A whole one ends it, and old manifests without canaries are as good as ever.
    let mut plain = own;
    plain.shards[0].canaries.clear();
    newest = next(&root, &newest, plain).await;
    until_in_service(&watcher, newest.number).await;
}

/// An unmounted disk leaves an empty folder behind, and a backup that is put back has older snapshots only.
#[tokio::test]
async fn a_root_that_lost_what_is_in_service_is_told_at_every_look() {
    let (folder, root) = local();
    let cache = tempfile::tempdir().unwrap();
    let watcher = SnapshotWatcher::new(root.clone(), options(cache.path())).unwrap();
    assert!(!watcher.look().await.unwrap(), "before the first snapshot that is no failure");
    let first = publish(&root, None, store_content(&root, &corpus(1), 1).await, "run 1").await;
    let second = next(&root, &first, store_content(&root, &corpus(2), 1).await).await;
    watcher.look().await.unwrap();

    let [there, elsewhere] = ["snapshots", "elsewhere"].map(|name| folder.path().join(name));
    std::fs::rename(&there, &elsewhere).unwrap();
    broken(&watcher, "nothing is published").await;
    broken(&watcher, "is its disk mounted?").await;
    std::fs::rename(&elsewhere, &there).unwrap();
    assert!(!watcher.look().await.unwrap());
    assert!(watcher.status().failure.is_none());

    std::fs::remove_file(there.join(format!("{:020}.json", second.number))).unwrap();
    broken(&watcher, "is 1, but 2 is in service").await;
    // Whatever is published above that number is followed again.
    let again = next(&root, &first, store_content(&root, &corpus(3), 1).await).await;
    assert!(!watcher.look().await.unwrap());
    next(&root, &again, store_content(&root, &corpus(4), 1).await).await;
    until_in_service(&watcher, 3).await;
}

/// Puts other bytes under a name, as no part of this program ever does: what is mapped stays as it was.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

async fn broken(watcher: &SnapshotWatcher, says: &str) -> u64 {
    let before = watcher.status();
    let error = watcher.look().await.unwrap_err();
    assert!(error.to_string().contains(says), "{says}: {error}");
    let status = watcher.status();
    assert_eq!((in_service(watcher), status.number), (before.number, before.number), "{says}");
    assert_eq!(status.failures, before.failures + 1);
    assert!(status.failure.unwrap().message.contains(says));
    let query = &corpus(1)[0].vector;
    let serving = watcher.current().unwrap();
    assert_eq!(serving.snapshot.search_vector(query, 5, false).unwrap().len(), 5);
    status.failures
}

async fn until_in_service(watcher: &SnapshotWatcher, number: u64) {
    for _ in 0..500 {
        let _ = watcher.look().await;
        if in_service(watcher) == Some(number) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("snapshot {number} is not taken over: {:?}", watcher.status());
}

/// What is in the folders that watchers have below `cache`.
pub(super) fn cached(cache: &Path) -> BTreeSet<String> {
    let folders = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let files =
        folders.filter(|path| path.is_dir()).flat_map(|path| std::fs::read_dir(path).unwrap());
    files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn needed(content: &Content) -> BTreeSet<String> {
    let shards = content.shards.iter();
    let files = shards.flat_map(|s| [Some(&s.ids), s.index.as_ref(), s.sidecar.as_ref()]);
    files.flatten().map(FileRef::cached_name).collect()
}

#[tokio::test]
async fn the_cache_holds_what_is_open_and_no_more() {
    let root = Root::in_memory();
    let cache = tempfile::tempdir().unwrap();
    let watcher = SnapshotWatcher::new(root.clone(), options(cache.path())).unwrap();
    let first = publish(&root, None, store_content(&root, &corpus(1), 4).await, "run 1").await;
    watcher.look().await.unwrap();
    let held = watcher.current().unwrap();
    assert_eq!(cached(cache.path()), needed(&first.content));

    // One note of one shard differs: the other shards are not fetched again, nor opened.
    let second = next(&root, &first, store_content(&root, &edited(1), 4).await).await;
    let shared = needed(&first.content).intersection(&needed(&second.content)).count();
    assert_eq!(shared, 9, "three of four shards are the same");
    watcher.look().await.unwrap();
    let both: BTreeSet<String> =
        needed(&first.content).union(&needed(&second.content)).cloned().collect();
    assert_eq!(cached(cache.path()), both, "the first is still held");
    drop(held);
    watcher.look().await.unwrap();
    assert_eq!(cached(cache.path()), needed(&second.content));

    // A broken one leaves nothing behind once a whole one follows; what was fetched of it is used again.
    let third = store_content(&root, &corpus(3), 4).await;
    let lost = third.shards[2].index.clone().unwrap();
    let bytes = root.get(&lost.path).await.unwrap();
    let third = next(&root, &second, third).await;
    root.delete(&lost.path).await.unwrap();
    watcher.look().await.unwrap_err();
    assert_eq!(in_service(&watcher), Some(2));
    root.put(&lost.path, bytes).await.unwrap();
    until_in_service(&watcher, 3).await;
    watcher.look().await.unwrap();
    assert_eq!(cached(cache.path()), needed(&third.content));
    // A restart finds its downloads, and damage in them.
    drop(watcher);
    let folder = cache.path().join(
        std::fs::read_dir(cache.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .find(|entry| entry.path().is_dir())
            .unwrap()
            .file_name(),
    );
    let name = needed(&third.content).into_iter().next().unwrap();
    replace(&folder.join(name), b"damaged");
    let again = SnapshotWatcher::new(root, options(cache.path())).unwrap();
    assert!(again.look().await.unwrap());
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 2, "the same folder and its lock");
}

#[tokio::test]
async fn a_web_server_that_lists_nothing_is_followed_by_number() {
    let (folder, disk) = local();
    let first = publish(&disk, None, store_content(&disk, &corpus(1), 1).await, "run 1").await;
    let root = Root::open(&super::opened::serve(folder.path().to_owned()).await).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let no_number = SnapshotWatcher::new(root.clone(), options(cache.path())).unwrap();
    assert_eq!(no_number.look().await.unwrap_err().kind(), ErrorKind::Unsupported);
    drop(no_number);
    let with_number = WatchOptions { first: Some(1), ..options(cache.path()) };
    let watcher = SnapshotWatcher::new(root, with_number).unwrap();
    assert!(watcher.look().await.unwrap());
    assert!(!watcher.look().await.unwrap(), "2 is not published yet");
    let second = next(&disk, &first, store_content(&disk, &corpus(2), 1).await).await;
    assert!(watcher.look().await.unwrap());
    let third = next(&disk, &second, store_content(&disk, &corpus(3), 1).await).await;
    next(&disk, &third, store_content(&disk, &corpus(4), 1).await).await;
    assert!(watcher.look().await.unwrap());
    assert_eq!(in_service(&watcher), Some(4));
}

#[tokio::test]
async fn a_started_watcher_looks_by_itself_and_stops_when_dropped() {
    let root = Root::in_memory();
    let cache = tempfile::tempdir().unwrap();
    let every = Duration::from_millis(5);
    let options = WatchOptions { every, ..options(cache.path()) };
    let mut watcher = SnapshotWatcher::new(root.clone(), options).unwrap();
    watcher.start();
    publish(&root, None, store_content(&root, &corpus(1), 1).await, "run 1").await;
    let watcher = Arc::new(watcher);
    for _ in 0..1_000 {
        if watcher.current().is_some() {
            break;
        }
        tokio::time::sleep(every).await;
    }
    let held = watcher.current().expect("the watcher polls");
    drop(watcher);
    assert_eq!(held.snapshot.manifest().number, 1, "what is held stays open");
}
