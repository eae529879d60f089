//! One flipped bit anywhere in a stored file: every reader says which file it is and stops, or answers as without it.
//! And the repair: what was damaged is taken out, the next run makes it again.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::error::Result;
use scalingnote::exec::{self, RunContext};
use scalingnote::observe::Silent;
use scalingnote::report::{Outcome, PlanSummary, RunReport};
use scalingnote::search::{Snapshot, SnapshotWatcher, WatchOptions};
use scalingnote::snapshot::{self, Manifest};
use scalingnote::stage::{self, PurgeReport, PurgeRequest, TaskReceipt};
use scalingnote::store::layout::{self, Key};
use scalingnote::store::{FileRef, Root};
use scalingnote::types::{Cancel, Digest256, NoteId};

use super::segments::edit;
use crate::fixture::days::{Corpus, context, encoded, found};
use crate::fixture::files::walk;
use crate::fixture::pipeline::PipelineFile;

const NOTES: i64 = 240;

/// Two days of notes in two shards: bases and deltas, removed keys, parts of at most 48 texts.
struct Days {
    corpus: Corpus,
    root: tempfile::TempDir,
    newest: Manifest,
}

async fn two_days() -> Days {
    let file = PipelineFile {
        columns: "body, likes, deleted",
        corpus: "stored_columns = [\"likes\"]\n",
        model: "fake:64",
        tower: "max_tokens = 32\n",
        sections: "[encode]\npart_texts = 48\n[index]\nshards = 2\n[gates]\nmax_count_drop_percent = 60.0\n",
        ..PipelineFile::default()
    };
    let mut corpus = Corpus::with(file.text(), NOTES, |id| id % 5);
    let root = tempfile::tempdir().unwrap();
    let opened = open(root.path());
    day(&corpus, &opened, &[]).await.unwrap();
    edit(&mut corpus, 0..6, 2);
    (100..104).for_each(|id| drop(corpus.notes.remove(&id)));
    day(&corpus, &opened, &[]).await.unwrap();
    let newest = snapshot::newest(&opened).await.unwrap().unwrap();
    assert!(newest.content.shards.iter().all(|shard| shard.segments().len() == 2));
    Days { corpus, root, newest }
}

fn open(folder: &Path) -> Root {
    Root::open(folder.to_str().unwrap()).unwrap()
}

/// A copy of the root; `old` takes out of its receipts what earlier releases did not write.
fn copy(days: &Days, old: bool) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in walk(days.root.path()) {
        let key = Path::new(&file).strip_prefix(days.root.path()).unwrap();
        let target = copy.path().join(key);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, &target).unwrap();
        if old && file.ends_with(".json") && key.starts_with("embeddings") {
            let mut json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            forget_pieces(&mut json);
            std::fs::write(target, json.to_string()).unwrap();
        }
    }
    copy
}

fn forget_pieces(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Object(map) => {
            map.remove("pieces");
            map.values_mut().for_each(forget_pieces);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(forget_pieces),
        _ => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Part,
    Index,
    Sidecar,
    Ids,
    Removed,
    Prepared,
    Located,
}

impl Kind {
    fn of(key: &str) -> Option<Self> {
        Some(match layout::parse(key)? {
            Key::Part { .. } => Self::Part,
            Key::Index { .. } => Self::Index,
            Key::Sidecar { .. } => Self::Sidecar,
            Key::Ids { .. } => Self::Ids,
            Key::Removed { .. } => Self::Removed,
            Key::Prepared { .. } => Self::Prepared,
            Key::Located { .. } => Self::Located,
            _ => return None,
        })
    }
}

/// Flips one bit of one file among `keys` that is of this kind; gives its key.
fn flip(folder: &Path, keys: &[String], kind: Kind, random: &mut StdRng) -> String {
    let keys: Vec<&String> = keys.iter().filter(|key| Kind::of(key) == Some(kind)).collect();
    assert!(!keys.is_empty(), "there is no {kind:?}");
    let key = keys[random.random_range(0..keys.len())];
    let path = folder.join(key);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = random.random_range(0..bytes.len());
    bytes[at] ^= 1 << random.random_range(0..8);
    std::fs::write(path, bytes).unwrap();
    key.clone()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Reader {
    Verify,
    Open,
    Serve,
    Diff,
    NextDay,
    Rebuild,
    Compaction,
    Purge,
    Texts,
}

/// What a reader answers.
type Answer = BTreeMap<String, String>;

fn opened(root: &Root) -> BoxFuture<'_, Result<Answer>> {
    let opening = async {
        let cache = tempfile::tempdir().unwrap();
        let opened = Snapshot::open(root, None, cache.path()).await?;
        opened.check_canaries()?;
        Ok(found(&opened))
    };
    opening.boxed()
}

// Futures of whole runs are large, and a test's stack is not: each is put on the heap by a function of its own.

fn day<'a>(
    corpus: &'a Corpus,
    root: &'a Root,
    set: &'a [&str],
) -> BoxFuture<'a, Result<RunReport>> {
    corpus.run(root, set).boxed()
}

fn task<'a>(
    context: &'a RunContext,
    plan: &'a str,
    task: &'a str,
) -> BoxFuture<'a, Result<TaskReceipt>> {
    exec::execute_task(context, plan, task).boxed()
}

fn plan(context: &RunContext) -> BoxFuture<'_, Result<PlanSummary>> {
    exec::plan(context).boxed()
}

fn purged(root: &Root) -> BoxFuture<'_, Result<PurgeReport>> {
    let purging = async move {
        let notes = [NoteId::Int(3), NoteId::Int(30)];
        let (reporter, cancel) = (Arc::new(Silent), Cancel::new());
        stage::purge(PurgeRequest { root, notes: &notes, dry_run: false, reporter, cancel }).await
    };
    purging.boxed()
}

fn served(root: &Root) -> BoxFuture<'_, Result<Answer>> {
    let serving = async {
        let cache = tempfile::tempdir().unwrap();
        let options = WatchOptions {
            every: Duration::from_secs(60),
            cache: cache.path().to_owned(),
            in_place: false,
            tower: None,
            first: None,
        };
        let watcher = SnapshotWatcher::new(root.clone(), options)?;
        watcher.look().await?;
        Ok(found(&watcher.current().unwrap().snapshot))
    };
    serving.boxed()
}

fn answer<'a>(reader: Reader, days: &'a Days, folder: &'a Path) -> BoxFuture<'a, Result<Answer>> {
    answered(reader, days, folder).boxed()
}

async fn answered(reader: Reader, days: &Days, folder: &Path) -> Result<Answer> {
    let root = &open(folder);
    let mut corpus = days.corpus.again();
    match reader {
        Reader::Verify => {
            let problems = snapshot::verify_hashes(root, &days.newest, &|_| {}).await?;
            match problems.first() {
                None => Ok(Answer::new()),
                Some(first) => Err(scalingnote::error::Error::corrupt(first.path.clone())),
            }
        }
        Reader::Open => opened(root).await,
        Reader::Serve => served(root).await,
        Reader::Diff => {
            let first = snapshot::read(root, 1).await?;
            let diff = snapshot::diff_ids(root, &first, &days.newest, 9).await?;
            Ok(Answer::from([("diff".to_owned(), format!("{diff:?}"))]))
        }
        Reader::NextDay => {
            edit(&mut corpus, 20..25, 3);
            day(&corpus, root, &[]).await?;
            opened(root).await
        }
        // Every vector is read again.
        Reader::Rebuild => {
            day(&corpus, root, &["index.connectivity=8"]).await?;
            opened(root).await
        }
        // Of the oldest parts so few rows are live that these are copied.
        Reader::Compaction => {
            edit(&mut corpus, (0..NOTES).filter(|id| id % 8 < 5), 4);
            let report = day(&corpus, root, &[]).await?;
            assert!(
                report.written.compacted > 0 || !report.warnings.is_empty(),
                "{:?}",
                report.parts
            );
            opened(root).await
        }
        Reader::Purge => {
            let report = purged(root).await?;
            assert!(report.left.is_empty(), "{:?}", report.left);
            opened(root).await
        }
        Reader::Texts => {
            let content = &days.newest.content;
            let hashes: Vec<Digest256> =
                corpus.notes.values().map(|(body, _)| Digest256::of(body.as_bytes())).collect();
            let width = content.space.dimensions as usize;
            let vectors = stage::vectors_of(root, &content.space_id, width, &hashes).await?;
            let rows = hashes.iter().zip(vectors.rows());
            Ok(rows.map(|(hash, row)| (hash.to_hex(), format!("{row:?}"))).collect())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_named_or_changes_nothing() {
    let days = two_days().await;
    let named: Vec<String> = days.newest.content.files().map(|file| file.path.clone()).collect();
    let kinds = [
        (Kind::Part, false),
        (Kind::Part, true),
        (Kind::Index, false),
        (Kind::Sidecar, false),
        (Kind::Ids, false),
        (Kind::Removed, false),
    ];
    let readers = [
        Reader::Verify,
        Reader::Open,
        Reader::Serve,
        Reader::Diff,
        Reader::NextDay,
        Reader::Rebuild,
        Reader::Compaction,
        Reader::Purge,
        Reader::Texts,
    ];
    let mut random = StdRng::seed_from_u64(7);
    let mut table = BTreeMap::new();
    for reader in readers {
        let whole = copy(&days, false);
        let expected = answer(reader, &days, whole.path()).await.unwrap();
        for (kind, old) in kinds {
            for _ in 0..2 {
                let damaged = copy(&days, old);
                let key = flip(damaged.path(), &named, kind, &mut random);
                let case = format!("{reader:?} of {kind:?} {key}, old receipts: {old}");
                let outcome = match answer(reader, &days, damaged.path()).await {
                    Ok(found) => {
                        assert_eq!(found, expected, "{case}");
                        "the same"
                    }
                    Err(error) => {
                        let said = format!("{error:?}");
                        assert!(said.contains(&key), "{case}: {said}");
                        assert_eq!(error.kind().exit_code(), 1, "{case}: {said}");
                        "refused"
                    }
                };
                *table.entry(format!("{reader:?} {kind:?} {outcome}")).or_insert(0) += 1;
            }
        }
    }
    table.iter().for_each(|(row, times)| println!("{row}: {times}"));
    // These have no other source, so they must refuse.
    for row in [
        "Verify Part",
        "Rebuild Part",
        "Compaction Part",
        "Purge Part",
        "Open Ids",
        "Serve Sidecar",
    ] {
        assert!(table.contains_key(&format!("{row} refused")), "{row}: {table:?}");
    }
}

/// The tasks of a stored plan, as a scheduler runs them, beside a damaged prepared or located file.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_refuse_a_damaged_prepared_or_located_file() {
    let days = two_days().await;
    let mut random = StdRng::seed_from_u64(8);
    for kind in [Kind::Prepared, Kind::Located, Kind::Prepared] {
        let damaged = copy(&days, false);
        let root = &open(damaged.path());
        let mut corpus = days.corpus.again();
        edit(&mut corpus, 20..25, 3);
        // Texts of other notes, some of the other shard.
        for id in 0..8 {
            corpus.notes.insert(1_000 + id, corpus.notes[&(40 + id)].clone());
        }
        corpus.write(|_| serde_json::Value::Bool(false));
        let context = context(corpus.pipeline(&[]), root);
        let planned = plan(&context).await.unwrap();
        let keys: Vec<String> = root.list("").await.unwrap().into_iter().map(|o| o.key).collect();
        let run_of = layout::run_of(planned.plan_key.as_ref().unwrap()).to_owned();
        let keys: Vec<String> = keys.into_iter().filter(|key| key.contains(&run_of)).collect();
        let key = flip(damaged.path(), &keys, kind, &mut random);
        let key_of_plan = planned.plan_key.as_ref().unwrap();
        let mut refused = None;
        for name in planned.encode_tasks.iter().chain(&planned.build_tasks) {
            refused = task(&context, key_of_plan, name).await.err();
            if refused.is_some() {
                break;
            }
        }
        let error = refused.unwrap_or_else(|| panic!("{key} was taken"));
        let said = format!("{error:?}");
        assert!(said.contains(&key) && said.contains("start a new run"), "{said}");
        assert_eq!(error.kind().exit_code(), 1, "{said}");
        let report = day(&corpus, root, &[]).await.unwrap();
        assert!(
            matches!(report.outcome, Outcome::Published { snapshot: 3 }),
            "{:?}",
            report.outcome
        );
    }
}

fn flip_one(folder: &Path, file: &FileRef) -> PathBuf {
    let path = folder.join(&file.path);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    path
}

/// What the on-call does: `snapshot repair`, then the daily run.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_out_is_made_again() {
    let days = two_days().await;
    let content = &days.newest.content;
    let shard = &content.shards[1];
    let cases: [Vec<&FileRef>; 5] = [
        vec![&content.parts[0]],
        vec![shard.index.as_ref().unwrap()],
        vec![shard.sidecar.as_ref().unwrap(), &content.parts[1]],
        vec![&shard.ids, &shard.deltas[0].ids],
        vec![&shard.removed.as_ref().unwrap().file],
    ];
    for files in cases {
        let folder = copy(&days, false);
        let root = &open(folder.path());
        let expected = opened(root).await.unwrap();
        let paths: Vec<PathBuf> = files.iter().map(|file| flip_one(folder.path(), file)).collect();
        let keys: HashSet<&String> = files.iter().map(|file| &file.path).collect();

        let looked = exec::repair(root, true, &Cancel::new(), &|_| {}).await.unwrap();
        assert_eq!(looked.damaged.iter().collect::<HashSet<_>>(), keys);
        assert!(paths.iter().all(|path| path.exists()), "a dry run deletes nothing");
        let report = exec::repair(root, false, &Cancel::new(), &|_| {}).await.unwrap();
        assert_eq!((&report.damaged, &report.receipts), (&looked.damaged, &looked.receipts));
        assert!(paths.iter().all(|path| !path.exists()));
        let again = exec::repair(root, false, &Cancel::new(), &|_| {}).await.unwrap();
        assert!(again.damaged.is_empty() && again.receipts.is_empty(), "{again:?}");

        // A delta cannot do it, and says what can.
        let delta = days.corpus.again();
        let refused = day(&delta, root, &["corpus.mode=\"delta\""]).await.unwrap_err();
        assert!(refused.to_string().contains("corpus.mode = \"full\""), "{refused}");

        let corpus = days.corpus.again();
        let report = day(&corpus, root, &[]).await.unwrap();
        let parts = files.iter().filter(|file| Kind::of(&file.path) == Some(Kind::Part)).count();
        assert_eq!(encoded(&report) > 0, parts > 0, "{keys:?}: {}", encoded(&report));
        assert!(encoded(&report) <= 48 * parts as u64);
        assert_eq!(opened(root).await.unwrap(), expected, "{keys:?}");
        let newest = snapshot::newest(root).await.unwrap().unwrap();
        let problems = snapshot::verify_hashes(root, &newest, &|_| {}).await.unwrap();
        assert!(problems.is_empty(), "{keys:?}: {problems:?}");
        println!("{keys:?}: {:?}, {} encoded", report.outcome, encoded(&report));
    }
}

/// A purge takes no other file for the one that a plan names.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_believes_no_prepared_file_that_was_exchanged() {
    let days = two_days().await;
    let exchanged = copy(&days, false);
    let root = &open(exchanged.path());
    let objects = root.list("").await.unwrap().into_iter();
    let keys = objects.map(|object| object.key).filter(|key| Kind::of(key) == Some(Kind::Prepared));
    let keys: Vec<String> = keys.collect();
    // Whole, readable, and of another shard.
    std::fs::copy(exchanged.path().join(&keys[0]), exchanged.path().join(&keys[1])).unwrap();
    let request = PurgeRequest {
        root,
        notes: &[NoteId::Int(987_654)],
        dry_run: false,
        reporter: Arc::new(Silent),
        cancel: Cancel::new(),
    };
    let report = stage::purge(request).await.unwrap();
    assert!(report.deleted.contains(&keys[1]), "{:?}", report.deleted);
    assert!(report.left.is_empty(), "{:?}", report.left);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_is_not_hashed_again() {
    let days = two_days().await;
    let (root, cache) = (open(days.root.path()), tempfile::tempdir().unwrap());
    let opened = Snapshot::open(&root, None, cache.path()).await.unwrap().files();
    let bytes = |of: &dyn Fn(&FileRef) -> bool| -> u64 {
        days.newest.content.files().filter(|file| of(file)).map(|file| file.size).sum()
    };
    let hashed = AtomicU64::new(0);
    let count = |bytes| {
        hashed.fetch_add(bytes, Ordering::Relaxed);
    };
    let problems = snapshot::verify_other_hashes(&root, &days.newest, &opened, &count).await;
    assert!(problems.unwrap().is_empty());
    let others = bytes(&|file| !opened.contains(&file.path));
    assert_eq!(hashed.into_inner(), others);
    let mapped =
        |kind| matches!(kind, Some(Kind::Index | Kind::Sidecar | Kind::Ids | Kind::Removed));
    assert_eq!(others, bytes(&|file| !mapped(Kind::of(&file.path))));
}
