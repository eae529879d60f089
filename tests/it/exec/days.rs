//! Days in the life of a corpus: what is encoded and what is kept.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use scalingnote::config::{Pipeline, resolve_text};
use scalingnote::error::{ErrorKind, Result};
use scalingnote::exec::{self, RunContext, RunOptions};
use scalingnote::observe::{Silent, Stage};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::search::Snapshot;
use scalingnote::snapshot::{self, Manifest};
use scalingnote::stage;
use scalingnote::store::Root;
use scalingnote::types::Cancel;

/// Two shards, parts of at most 16 texts.
pub const PIPELINE: &str = r#"version = 1
[corpus]
sql = "select id as note_id, body, likes, deleted from notes"
template = "{{ body }}"
stored_columns = ["likes"]
[[corpus.tables]]
name = "notes"
uri = "notes.jsonl"
[tower]
model = "fake:16"
pooling = "mean"
max_tokens = 32
[encode]
part_texts = 16
[index]
shards = 2
[gates]
max_count_drop_percent = 60.0
[publish]
root = "memory://unused"
"#;

/// The last step of a scheduler, with its report.
pub async fn publish_plan(ctx: &RunContext, plan: &str, options: &RunOptions) -> Result<RunReport> {
    let mut report = RunReport::default();
    exec::publish_plan(ctx, plan, options, &mut report).await.map(|()| report)
}

/// A corpus that changes from day to day.
pub struct Corpus {
    pub folder: tempfile::TempDir,
    /// id -> (body, likes)
    pub notes: BTreeMap<i64, (String, i64)>,
}

impl Corpus {
    pub fn new(notes: i64) -> Self {
        let notes = (0..notes).map(|id| (id, (format!("note {id} about topic {}", id % 7), 0)));
        Self { folder: tempfile::tempdir().unwrap(), notes: notes.collect() }
    }

    /// Writes `notes.jsonl`; `extra` is each note's `deleted`.
    pub fn write(&self, extra: impl Fn(i64) -> serde_json::Value) {
        let mut lines = String::new();
        for (id, (body, likes)) in &self.notes {
            let mut row = serde_json::json!({ "id": id, "body": body, "likes": likes });
            row["deleted"] = extra(*id);
            lines.push_str(&format!("{row}\n"));
        }
        std::fs::write(self.folder.path().join("notes.jsonl"), lines).unwrap();
    }

    pub fn pipeline(&self, set: &[&str]) -> Pipeline {
        let set: Vec<String> = set.iter().map(|&s| s.to_owned()).collect();
        resolve_text(PIPELINE, "days.toml", self.folder.path(), [], &set).unwrap().pipeline
    }

    pub async fn run(&self, root: &Root, set: &[&str]) -> Result<RunReport> {
        self.write(|_| serde_json::Value::Bool(false));
        run(self.pipeline(set), root).await
    }

    /// Adds, edits, likes and deletes a few notes.
    pub fn live_a_day(&mut self, random: &mut StdRng) {
        for _ in 0..random.random_range(0..6) {
            let ids: Vec<i64> = self.notes.keys().copied().collect();
            let id = ids[random.random_range(0..ids.len())];
            match random.random_range(0..5) {
                0 => drop(self.notes.insert(id, (format!("edited {}", random.random::<u32>()), 0))),
                1 => drop(self.notes.insert(id, (format!("note {id} about topic {}", id % 7), 1))),
                2 if self.notes.len() > 20 => drop(self.notes.remove(&id)),
                3 => drop(self.notes.get_mut(&id).map(|note| note.1 += 1)),
                _ => {
                    let new = random.random_range(1_000..1_000_000);
                    self.notes.insert(new, (format!("note {new} about {}", new % 11), 0));
                }
            }
        }
    }
}

pub async fn run(pipeline: Pipeline, root: &Root) -> Result<RunReport> {
    let ctx = context(pipeline, root);
    exec::run(&ctx, &RunOptions { attempts: 1, ..RunOptions::default() }).await
}

pub fn context(pipeline: Pipeline, root: &Root) -> RunContext {
    let (root, reporter) = (root.clone(), Arc::new(Silent));
    RunContext { pipeline, root, reporter, cancel: Cancel::new() }
}

pub fn encoded(report: &RunReport) -> u64 {
    report.stages.iter().find(|stage| stage.stage == Stage::Encode).unwrap().actual.texts
}

/// What a reader sees: every note's text hash and stored column, and the bytes of the index and sidecar of every segment
/// with the keys removed from it.
pub async fn seen(root: &Root, manifest: &Manifest, cache: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for shard in &manifest.content.shards {
        for (at, segment) in shard.segments().iter().enumerate() {
            let removed = segment.removed.as_ref().map(|removed| &removed.file);
            let files = [Some(&segment.index), Some(&segment.sidecar), removed];
            for (kind, file) in ["index", "sidecar", "removed"].into_iter().zip(files) {
                let hash = file.map(|file| file.sha256.to_hex()).unwrap_or_default();
                seen.insert(format!("{kind} {} {at}", shard.shard), hash);
            }
        }
    }
    let opened = Snapshot::open(root, Some(manifest.number), cache).await.unwrap();
    let canaries = opened.check_canaries().unwrap();
    assert!(canaries > 0 || manifest.content.vectors == 0, "every index has canaries");
    seen.extend(found(&opened));
    seen
}

/// Every note that an exact search finds, with its score and stored columns.
pub fn found(opened: &Snapshot) -> BTreeMap<String, String> {
    let dimensions = opened.manifest().content.space.dimensions as usize;
    let mut probe = vec![0.1f32; dimensions];
    probe[3] = 0.7;
    let all = opened.manifest().content.vectors as usize;
    let found = opened.search_vector(&probe, all, true).unwrap();
    assert_eq!(found.len() as u64, opened.manifest().content.notes);
    found
        .into_iter()
        .map(|found| (found.note_id.to_string(), format!("{} {:?}", found.score, found.stored)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_changed_texts_are_encoded() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(100);
    let first = corpus.run(&root, &[]).await.unwrap();
    assert_eq!((encoded(&first), first.outcome), (100, Outcome::Published { snapshot: 1 }));
    let before = snapshot::newest(&root).await.unwrap().unwrap();

    let unchanged = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(unchanged.outcome, Outcome::NothingToDo { snapshot: Some(1) });
    assert_eq!(encoded(&unchanged), 0);
    assert!(root.list("prepared").await.unwrap().iter().all(|f| !f.key.contains(&unchanged.run)));

    for id in 0..5 {
        corpus.notes.get_mut(&id).unwrap().0 = format!("rewritten {id}");
    }
    assert_eq!(encoded(&corpus.run(&root, &[]).await.unwrap()), 5);

    corpus.notes.get_mut(&3).unwrap().0 = "note 3 about topic 3".to_owned();
    let back = corpus.run(&root, &[]).await.unwrap();
    assert_eq!((encoded(&back), back.outcome), (0, Outcome::Published { snapshot: 3 }));

    // A text that another note had, in whatever shard, is not encoded either.
    corpus.notes.insert(900, ("note 50 about topic 1".to_owned(), 0));
    corpus.notes.insert(901, ("note 51 about topic 2".to_owned(), 0));
    assert_eq!(encoded(&corpus.run(&root, &[]).await.unwrap()), 0);

    // Likes are a stored column: the ids file changes, the index and the vectors do not.
    let old = snapshot::newest(&root).await.unwrap().unwrap();
    corpus.notes.get_mut(&50).unwrap().1 = 7;
    assert_eq!(encoded(&corpus.run(&root, &[]).await.unwrap()), 0);
    let new = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!(new.number, old.number + 1);
    let index = |m: &Manifest| m.content.shards.iter().map(|s| s.index.clone()).collect::<Vec<_>>();
    assert_eq!(index(&old), index(&new));
    assert_eq!(old.content.parts, new.content.parts);

    // Another shard count: every index is built anew, no text is encoded.
    let resharded = corpus.run(&root, &["index.shards=3"]).await.unwrap();
    assert_eq!(encoded(&resharded), 0);
    assert_eq!(resharded.corpus.notes_unchanged, corpus.notes.len() as u64);
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!((newest.content.shard_count, newest.content.notes), (3, corpus.notes.len() as u64));

    // Nothing published before was touched.
    assert_eq!(snapshot::read(&root, 1).await.unwrap(), before);
    assert!(snapshot::verify_hashes(&root, &before, &|_| {}).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_upserts_and_deletes() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(60);
    corpus.run(&root, &[]).await.unwrap();
    corpus.notes = BTreeMap::from([
        (3, ("a new text".to_owned(), 5)),
        (4, ("gone".to_owned(), 0)),
        (700, ("a new note".to_owned(), 1)),
    ]);
    corpus.write(|id| (id == 4).into());
    let report = run(corpus.pipeline(&["corpus.mode=\"delta\""]), &root).await.unwrap();
    assert_eq!((encoded(&report), report.outcome), (2, Outcome::Published { snapshot: 2 }));
    let counts = &report.corpus;
    assert_eq!((counts.notes_new, counts.notes_changed, counts.notes_deleted), (1, 1, 1));
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!(newest.content.notes, 60);
    let cache = tempfile::tempdir().unwrap();
    let seen = seen(&root, &newest, cache.path()).await;
    assert!(seen.contains_key("i:700") && !seen.contains_key("i:4") && seen.contains_key("i:59"));
    assert!(seen["i:3"].contains('5'), "{}", seen["i:3"]);

    let again = run(corpus.pipeline(&["corpus.mode=\"delta\""]), &root).await.unwrap();
    assert_eq!((encoded(&again), again.outcome), (0, Outcome::NothingToDo { snapshot: Some(2) }));

    let other_tower = ["corpus.mode=\"delta\"", "tower.model=\"fake:8\""];
    let refused = run(corpus.pipeline(&other_tower), &root).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
}

/// The schedulers' way, where no lease keeps runs apart: the conditional commit alone decides.
#[tokio::test(flavor = "multi_thread")]
async fn four_planned_runs_at_once_publish_once_and_lose_nothing() {
    let root = Root::in_memory();
    let corpus = Corpus::new(80);
    corpus.write(|_| false.into());
    let runs = (0..4).map(|_| {
        let ctx = context(corpus.pipeline(&[]), &root);
        async move {
            let plan = exec::plan(&ctx).await?.run;
            let tasks = stage::Plan::load(&ctx.root, &plan).await?;
            let encode = tasks.encode.iter().map(|task| &task.id);
            let build = tasks.build.iter().map(|task| &task.id);
            for task in encode.chain(tasks.calibrate.iter().map(|task| &task.id)).chain(build) {
                exec::execute_task(&ctx, &plan, task).await?;
            }
            publish_plan(&ctx, &plan, &RunOptions::default()).await
        }
    });
    let mut published = 0;
    for outcome in futures::future::join_all(runs).await {
        match outcome {
            Ok(report) => {
                published += u32::from(matches!(report.outcome, Outcome::Published { .. }));
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
        }
    }
    assert_eq!(published, 1);
    assert_eq!(snapshot::numbers(&root).await.unwrap(), [1]);
    let again = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(again.outcome, Outcome::NothingToDo { snapshot: Some(1) });
}
