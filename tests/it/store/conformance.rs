//! One conformance suite for every kind of store, and what is special to local disk.
//!
//! Memory and local disk always; further roots (S3, Azure, GCS) by `SCALINGNOTE_TEST_ROOTS`, comma-separated URIs with
//! credentials in the environment. Everything is written below a fresh prefix.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;

use scalingnote::error::ErrorKind;
use scalingnote::snapshot::{CommitOutcome, commit, newest, numbers};
use scalingnote::store::{FileRef, PutOutcome, Root};
use scalingnote::types::Digest256;

use crate::fixture::disk::again_on_a_small_disk;
use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::files::{noise, walk};
use crate::fixture::support;

/// What every root must do. `many` is the number of small objects of the listing.
async fn conforms(root: &Root, many: usize) {
    create_if_absent(root).await;
    reads(root).await;
    multipart(root).await;
    listing(root, many).await;
    deleting(root).await;
    hostile_keys(root).await;
    fetching(root).await;
    publishing(root).await;
}

async fn create_if_absent(root: &Root) {
    let writers = (0..16).map(|writer: u32| {
        let root = root.clone();
        tokio::spawn(async move {
            let bytes = Bytes::from(format!("writer {writer}"));
            (writer, root.put_if_absent("race/one.json", bytes).await.unwrap())
        })
    });
    let outcomes = futures::future::join_all(writers).await;
    let winners: Vec<u32> = outcomes
        .into_iter()
        .map(Result::unwrap)
        .filter(|(_, outcome)| *outcome == PutOutcome::Created)
        .map(|(writer, _)| writer)
        .collect();
    assert_eq!(winners.len(), 1, "{}: {winners:?} all won", root.uri());
    let stored = root.get("race/one.json").await.unwrap();
    assert_eq!(stored, format!("writer {}", winners[0]), "the winner's bytes are the ones kept");
}

async fn reads(root: &Root) {
    let file = root.put("reads/a.bin", Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!((file.size, file.sha256), (10, Digest256::of(b"0123456789")));
    assert_eq!(root.put("reads/a.bin", Bytes::from_static(b"0123456789")).await.unwrap(), file);
    let other = root.put("reads/a.bin", Bytes::from_static(b"other")).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict);
    assert_eq!(root.get("reads/a.bin").await.unwrap(), "0123456789");
    assert_eq!(root.get_range("reads/a.bin", 3..7).await.unwrap(), "3456");
    assert_eq!(root.size("reads/a.bin").await.unwrap(), Some(10));
    assert_eq!(root.size("reads/none").await.unwrap(), None);
    let missing = root.get("reads/none").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let text = missing.to_string();
    assert!(text.contains("reads/none") && text.contains(root.uri()), "{text}");
}

async fn multipart(root: &Root) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(20 << 20);
    let path = folder.path().join("big");
    std::fs::write(&path, &bytes).unwrap();
    let file = root.upload("big/uploaded.bin", &path).await.unwrap();
    assert_eq!((file.size, file.sha256), (20 << 20, Digest256::of(&bytes)));
    assert_eq!(root.hash("big/uploaded.bin").await.unwrap(), (file.sha256, file.size));
    let range = root.get_range("big/uploaded.bin", (8 << 20) - 3..(8 << 20) + 3).await.unwrap();
    assert_eq!(range, bytes[(8 << 20) - 3..(8 << 20) + 3]);

    // Bytes that are too many for one request are put in parts, and are still never overwritten.
    let put = root.put("big/put.bin", bytes.clone().into()).await.unwrap();
    assert_eq!((put.size, put.sha256), (file.size, file.sha256));
    assert_eq!(root.put("big/put.bin", bytes.clone().into()).await.unwrap(), put);
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    let refused = root.put("big/put.bin", other.into()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);

    // As the Parquet writers do it.
    let (store, place) = root.object("big/streamed.bin");
    let mut writer = BufWriter::with_capacity(store, place, 6 << 20);
    for piece in bytes.chunks(1 << 20) {
        writer.write_all(piece).await.unwrap();
    }
    writer.shutdown().await.unwrap();
    let sealed = root.seal("big/streamed.bin").await.unwrap();
    assert_eq!((sealed.size, sealed.sha256), (file.size, file.sha256));
}

async fn listing(root: &Root, many: usize) {
    let puts = (0..many).map(|at| {
        let root = root.clone();
        async move {
            let key = format!("many/{:03}/{at:05}.json", at % 100);
            root.put_if_absent(&key, Bytes::from(at.to_string())).await.unwrap()
        }
    });
    let created = futures::stream::iter(puts).buffer_unordered(64).collect::<Vec<_>>().await;
    assert!(created.iter().all(|outcome| *outcome == PutOutcome::Created));
    root.put("many-not/x", Bytes::from_static(b"beside")).await.unwrap();
    let listed = root.list("many").await.unwrap();
    assert_eq!(listed.len(), many);
    assert!(listed.is_sorted_by(|a, b| a.key < b.key));
    assert!(listed.iter().all(|object| object.key.starts_with("many/") && object.size > 0));
    let age = chrono::Utc::now() - listed[0].modified;
    assert!(age.num_minutes().abs() < 60, "clocks differ by {age}");
    assert_eq!(root.list("many/007").await.unwrap().len(), many.div_ceil(100));
    assert!(root.list("nothing").await.unwrap().is_empty());
    let all: BTreeSet<String> =
        root.list("").await.unwrap().into_iter().map(|object| object.key).collect();
    assert!(all.contains("many-not/x") && all.contains("race/one.json"));
}

async fn deleting(root: &Root) {
    root.put("gone/x", Bytes::from_static(b"x")).await.unwrap();
    root.delete("gone/x").await.unwrap();
    root.delete("gone/x").await.unwrap();
    root.delete("gone/never").await.unwrap();
    assert_eq!(root.size("gone/x").await.unwrap(), None);
    // The name is free again: it was never another object's.
    assert_eq!(
        root.put_if_absent("gone/x", Bytes::from_static(b"y")).await.unwrap(),
        PutOutcome::Created
    );
}

async fn hostile_keys(root: &Root) {
    let cache = tempfile::tempdir().unwrap();
    for key in ["../../etc/passwd", "/etc/passwd", "a/../../b", "", "a//b", "a\\b", "a/%2e%2e/b"] {
        let file = FileRef { path: key.to_owned(), size: 1, sha256: Digest256::of(b"") };
        let errors = [
            root.get(key).await.unwrap_err(),
            root.get_range(key, 0..1).await.unwrap_err(),
            root.size(key).await.unwrap_err(),
            root.put(key, Bytes::new()).await.unwrap_err(),
            root.put_if_absent(key, Bytes::new()).await.unwrap_err(),
            root.upload(key, Path::new("/dev/null")).await.unwrap_err(),
            root.seal(key).await.unwrap_err(),
            root.sync(key).await.unwrap_err(),
            root.hash(key).await.unwrap_err(),
            root.delete(key).await.unwrap_err(),
            root.fetch(&file, cache.path()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{key:?}: {error}");
        }
        assert_eq!(root.local_path(key), None);
    }
}

async fn fetching(root: &Root) {
    let cache = tempfile::tempdir().unwrap();
    let file = root.put("fetch/a.bin", Bytes::from(noise(100_000))).await.unwrap();
    let path = root.fetch(&file, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), noise(100_000));
    assert_eq!(root.fetch(&file, cache.path()).await.unwrap(), path);

    let longer = FileRef { size: 100_001, ..file.clone() };
    assert_eq!(
        root.fetch(&longer, cache.path()).await.unwrap_err().kind(),
        ErrorKind::Corrupt,
        "a size that differs is noticed everywhere"
    );
    let gone = FileRef { path: "fetch/none".to_owned(), ..file.clone() };
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(root.fetch(&gone, fresh.path()).await.unwrap_err().kind(), ErrorKind::NotFound);
    if root.local_folder().is_none() {
        // A torn or altered download is made again, a wrong object refused.
        std::fs::write(&path, noise(99_999)).unwrap();
        assert_eq!(
            std::fs::read(root.fetch(&file, cache.path()).await.unwrap()).unwrap().len(),
            100_000
        );
        let wrong = FileRef { sha256: Digest256::of(b"other"), ..file };
        let error = root.fetch(&wrong, fresh.path()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(std::fs::read_dir(fresh.path()).unwrap().count(), 0, "no torn file stays");
    }
}

async fn publishing(root: &Root) {
    let content = support::store_content(root, &[], 1).await;
    let outcomes = futures::future::join_all((0..8).map(|at| {
        let (root, content) = (root.clone(), content.clone());
        tokio::spawn(async move {
            let run = support::provenance(&format!("run-{at}"));
            commit(&root, None, content, Vec::new(), run).await.unwrap()
        })
    }));
    let outcomes: Vec<_> = outcomes.await.into_iter().map(Result::unwrap).collect();
    let won = outcomes.iter().filter(|o| matches!(o, CommitOutcome::Committed(_))).count();
    assert_eq!(won, 1, "{outcomes:?}");
    assert_eq!(numbers(root).await.unwrap(), [1]);
    assert!(newest(root).await.unwrap().is_some());
    assert!(root.list("leases").await.unwrap().is_empty(), "every lease was released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    conforms(&Root::in_memory(), 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::open(folder.path().join("deep/er").to_str().unwrap()).unwrap();
    conforms(&root, 2_000).await;
    let leftovers: Vec<_> = walk(folder.path()).into_iter().filter(|p| p.contains('#')).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_of_the_environment_conform() {
    for uri in support::roots_of_the_environment() {
        let started = std::time::Instant::now();
        let fresh = format!("{uri}/conformance-{:016x}", rand::random::<u64>());
        let root = Root::open(&fresh).unwrap();
        conforms(&root, 10_000).await;
        println!("{uri} conforms ({:.0?})", started.elapsed());
    }
}

#[tokio::test]
async fn a_torn_local_write_is_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::open(folder.path().to_str().unwrap()).unwrap();
    root.put("snapshots/x.json", Bytes::from_static(b"{}")).await.unwrap();
    // What a kill between the staged write and the link leaves.
    std::fs::write(folder.path().join("snapshots/00000000000000000001.json#77"), b"{\"ver")
        .unwrap();
    assert_eq!(root.list("snapshots").await.unwrap().len(), 1);
    assert_eq!(numbers(&root).await.unwrap(), [] as [u64; 0]);
    let content = support::store_content(&root, &[], 1).await;
    support::publish(&root, None, content, "run").await;
    assert_eq!(numbers(&root).await.unwrap(), [1]);
}

/// Runs itself again in a mount namespace of its own, on a tmpfs of 4 MiB.
#[tokio::test]
async fn a_full_disk_is_a_resource_and_leaves_nothing() {
    const INNER: &str = "SCALINGNOTE_TEST_FULL_DISK";
    if let Some(disk) = std::env::var_os(INNER) {
        full_disk(Path::new(&disk)).await;
        return;
    }
    let name = "store::conformance::a_full_disk_is_a_resource_and_leaves_nothing";
    again_on_a_small_disk(name, INNER, 4);
}

async fn full_disk(disk: &Path) {
    let root = Root::open(disk.join("root").to_str().unwrap()).unwrap();
    root.put("fits/a.bin", Bytes::from(noise(1 << 20))).await.unwrap();
    let failed = root.put("fits/b.bin", Bytes::from(noise(5 << 20))).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Resource, "{failed:?}");
    assert!(failed.to_string().contains("gc"), "{failed}");
    let source = tempfile::tempdir_in("/var/tmp").unwrap();
    let big = source.path().join("big");
    std::fs::write(&big, noise(20 << 20)).unwrap();
    let failed = root.upload("fits/c.bin", &big).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Resource, "{failed:?}");
    let keys: Vec<String> =
        root.list("").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["fits/a.bin"]);
    assert_eq!(walk(disk).len(), 1, "no staged file is left: {:?}", walk(disk));
    // What fits still goes in, once the failed upload's file is closed in the background.
    for _ in 0..100 {
        if root.put("fits/d.bin", Bytes::from(noise(1 << 20))).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("space was not given back");
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_refuses_is_named() {
    // Permissions do not bind root, a file in the way of a folder does.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"x").unwrap();
    let error = Root::open(folder.path().join("file/root").to_str().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("file/root"), "{error}");
    let root = Root::open(folder.path().to_str().unwrap()).unwrap();
    let error = root.put("file/below", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.to_string().contains("file/below"), "{error}");
}

#[tokio::test]
async fn a_failing_store_is_transient_and_says_what_was_asked() {
    let inner = Arc::new(object_store::memory::InMemory::new());
    let root = Faulty::new(inner, |_, _| Some(Fault::Before)).root();
    for error in [
        root.get("a/b").await.unwrap_err(),
        root.put("a/b", Bytes::new()).await.unwrap_err(),
        root.list("a").await.unwrap_err(),
        root.delete("a/b").await.unwrap_err(),
        root.size("a/b").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
        assert!(error.is_retryable() && error.to_string().contains("memory://faulty"), "{error}");
    }
}

#[tokio::test]
async fn an_upload_that_fails_leaves_no_object_and_can_be_repeated() {
    let inner = Arc::new(object_store::memory::InMemory::new());
    let mut left = 1;
    let root = Faulty::new(inner, move |operation, _| {
        let fails = operation == "multipart" && left > 0;
        left -= i32::from(fails);
        fails.then_some(Fault::Before)
    })
    .root();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    std::fs::write(&path, noise(9 << 20)).unwrap();
    assert!(root.upload("big/x", &path).await.is_err());
    assert_eq!(root.size("big/x").await.unwrap(), None);
    let file = root.upload("big/x", &path).await.unwrap();
    assert_eq!(file.size, 9 << 20);
    let missing = root.upload("big/y", &folder.path().join("none")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn roots_with_one_name_in_memory_are_one_store() {
    let (a, b) =
        (Root::open("memory://shared-1").unwrap(), Root::open("memory://shared-1").unwrap());
    a.put("x/y", Bytes::from_static(b"z")).await.unwrap();
    assert_eq!(b.get("x/y").await.unwrap(), "z");
    let other = Root::open("memory://").unwrap();
    assert_eq!(other.size("x/y").await.unwrap(), None);
    // A stream of a foreign reader sees the same objects.
    let (store, _) = a.object("x/y");
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(all.len(), 1);
    assert!(store.head(&"x/y".into()).await.is_ok());
}
