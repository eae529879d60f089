//! `prepare` in shares by any processes: what they leave is what one process leaves, whichever of them is killed and whatever is
//! repeated.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::ObjectStore;
use object_store::memory::InMemory;
use scalingnote::config::{Pipeline, resolve_text};
use scalingnote::error::{ErrorKind, Result};
use scalingnote::exec::{self, RunContext, RunOptions, TaskStage};
use scalingnote::observe::{Reporter, Silent};
use scalingnote::report::{PlanBrief, RunReport, SharesBrief};
use scalingnote::snapshot;
use scalingnote::stage::Plan;
use scalingnote::store::Root;
use scalingnote::types::Cancel;

use crate::fixture::days::publish_plan;
use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::pipeline::PipelineFile;

/// Notes in files of more than a MiB, one in seven twice, with tags that differ from file to file.
pub struct Corpus(pub tempfile::TempDir);

impl Corpus {
    pub fn new(files: usize, ending: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("notes")).unwrap();
        let corpus = Self(folder);
        (0..files).for_each(|file| corpus.write(file, ending, ""));
        corpus
    }

    pub fn write(&self, file: usize, ending: &str, edit: &str) {
        let mut text = String::new();
        if ending == "csv" {
            text.push_str("id,body,likes,at\n");
        }
        for row in 0..300_u64 {
            let id = if row % 7 == 0 { row } else { row * 10 + file as u64 };
            let word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let body = format!("{word:016x} {row}{edit} ").repeat(180);
            match ending {
                "csv" => writeln!(text, "{id},{body},{},{file}", row % 5).unwrap(),
                _ => {
                    let note =
                        serde_json::json!({"id": id, "body": body, "likes": row % 5, "at": file});
                    writeln!(text, "{note}").unwrap();
                }
            }
        }
        assert!(text.len() > 1 << 20, "{}", text.len());
        std::fs::write(self.0.path().join(format!("notes/{file}.{ending}")), text).unwrap();
    }

    /// A share a file, three shards.
    pub fn file(root: &str) -> PipelineFile<'_> {
        PipelineFile {
            columns: "body, likes, at as updated_at",
            corpus: "stored_columns = [\"likes\"]\nshare_mib = 1\n",
            uri: "notes",
            tower: "max_tokens = 32\n",
            sections: "[index]\nshards = 3\n[gates]\nrecall_min = 0.0\n",
            root,
            ..PipelineFile::default()
        }
    }

    fn pipeline(&self, set: &[&str]) -> Pipeline {
        let file = Self::file(PipelineFile::default().root);
        let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
        resolve_text(&file.text(), "shares.toml", self.0.path(), [], &set).unwrap().pipeline
    }

    fn context(&self, root: &Root, set: &[&str]) -> RunContext {
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        let (pipeline, root) = (self.pipeline(set), root.clone());
        RunContext { pipeline, root, reporter, cancel: Cancel::new() }
    }
}

/// One stage in two equal jobs, one after the other.
async fn stage(ctx: &RunContext, key: &str, stage: TaskStage) -> Result<()> {
    for share in ["1/2", "0/2"] {
        Box::pin(exec::execute_share(ctx, key, stage, share.parse().unwrap(), 1)).await?;
    }
    Ok(())
}

async fn prepared(ctx: &RunContext) -> Result<(SharesBrief, PlanBrief)> {
    let shares = Box::pin(exec::plan_shares(ctx)).await?;
    let key = shares.shares_key.clone().expect("a corpus that is split");
    stage(ctx, &key, TaskStage::Prepare).await?;
    stage(ctx, &key, TaskStage::Gather).await?;
    let plan = Box::pin(exec::plan_gathered(ctx, &key)).await?;
    Ok((shares, plan))
}

async fn scheduled(ctx: &RunContext) -> RunReport {
    let (_, plan) = prepared(ctx).await.unwrap();
    let Some(key) = plan.plan_key else { return RunReport::default() };
    for name in TaskStage::NAMES {
        stage(ctx, &key, name.parse().unwrap()).await.unwrap();
    }
    Box::pin(publish_plan(ctx, &key, &RunOptions::default())).await.unwrap()
}

async fn content(root: &Root) -> String {
    snapshot::newest(root).await.unwrap().unwrap().content_hash.to_hex()
}

async fn keys(root: &Root, folder: &str) -> Vec<String> {
    root.list(folder).await.unwrap().into_iter().map(|object| object.key).collect()
}

/// The plan without what names the run.
fn anonymous(plan: &Plan) -> serde_json::Value {
    let text = serde_json::to_string(plan).unwrap().replace(&plan.spec.run, "RUN");
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["created_at"] = "".into();
    json
}

#[tokio::test(flavor = "multi_thread")]
async fn days_in_shares_are_days_in_one_task() {
    for ending in ["jsonl", "csv"] {
        let corpus = Corpus::new(4, ending);
        let (one, shared) = (Root::in_memory(), Root::in_memory());
        for day in 0..3 {
            let whole = corpus.context(&one, &["corpus.share_mib=1000"]);
            let split = corpus.context(&shared, &[]);
            let expected = Box::pin(exec::plan_brief(&whole)).await.unwrap();
            let (shares, brief) = Box::pin(prepared(&split)).await.unwrap();
            assert_eq!((shares.prepare_tasks, shares.gather_tasks), (4, 3));
            assert_eq!(
                (brief.tasks, brief.texts, brief.tokens),
                (expected.tasks, expected.texts, expected.tokens)
            );
            if let (Some(_), Some(_)) = (&brief.plan_key, &expected.plan_key) {
                let mut expected = Plan::load(&one, &expected.run).await.unwrap();
                let plan = Plan::load(&shared, &brief.run).await.unwrap();
                expected.prepared.reading.clone_from(&plan.prepared.reading);
                assert_eq!(anonymous(&plan), anonymous(&expected), "{ending}, day {day}");
                // Nothing is left of the way there.
                let left = keys(&shared, &format!("prepared/{}", brief.run)).await;
                assert!(left.iter().all(|key| key.ends_with(".parquet")), "{left:?}");
            }
            Box::pin(exec::run(&whole, &RunOptions::default())).await.unwrap();
            // A scheduler that begins again.
            Box::pin(scheduled(&split)).await;
            assert_eq!(content(&shared).await, content(&one).await, "{ending}, day {day}");
            if day == 0 {
                corpus.write(2, ending, " edited");
            }
        }
    }
}

/// A scheduler repeats the step that plans where its answer was lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_plan_of_gathered_shares_is_told_again_with_its_night() {
    let corpus = Corpus::new(3, "jsonl");
    let root = Root::in_memory();
    let next = ["next.tower.model=fake:8", "next.tower.pooling=mean", "next.tokens_per_run=1000"];
    let ctx = corpus.context(&root, &next);
    let (shares, first) = Box::pin(prepared(&ctx)).await.unwrap();
    let key = shares.shares_key.unwrap();
    let again = Box::pin(exec::plan_gathered(&ctx, &key)).await.unwrap();
    let told = |brief: &PlanBrief| (brief.run.clone(), brief.plan_key.clone(), brief.tasks);
    assert_eq!(told(&again), told(&first));
    let night = |brief: PlanBrief| brief.backfill.map(|night| (night.tasks, night.tokens));
    let (first, again) = (night(first), night(again));
    assert!(first.is_some_and(|(tasks, tokens)| tasks > 0 && tokens > 0), "{first:?}");
    assert_eq!(again, first);

    // A day on which nothing changed.
    let ctx = corpus.context(&root, &[]);
    Box::pin(scheduled(&ctx)).await;
    let (shares, first) = Box::pin(prepared(&ctx)).await.unwrap();
    assert_eq!((first.tasks, &first.plan_key), (0, &None));
    let again = Box::pin(exec::plan_gathered(&ctx, &shares.shares_key.unwrap())).await.unwrap();
    assert_eq!(told(&again), told(&first));
}

/// Puts in the stages before the plan.
fn is_put(operation: &str, path: &str) -> bool {
    matches!(operation, "put" | "multipart" | "part" | "complete")
        && (path.contains("prepared/")
            || path.contains("/shares.json")
            || path.ends_with("plan.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_dies_at_any_put_costs_itself_alone() {
    let corpus = Corpus::new(4, "jsonl");
    let expected = {
        let root = Root::in_memory();
        Box::pin(exec::run(&corpus.context(&root, &[]), &RunOptions::default())).await.unwrap();
        content(&root).await
    };
    // How many puts there are, and then one run for each that dies there.
    let mut nth = 1;
    loop {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let puts = Arc::new(AtomicU64::new(0));
        let (counted, dies) = (Arc::clone(&puts), nth);
        let faulty = Faulty::new(Arc::clone(&store), move |operation, path| {
            let dead =
                is_put(operation, path) && counted.fetch_add(1, Ordering::SeqCst) + 1 >= dies;
            dead.then_some(if dies % 2 == 0 { Fault::Before } else { Fault::After })
        });
        let died = Box::pin(prepared(&corpus.context(&faulty.root(), &[]))).await;
        let root = Root::from_store(Arc::clone(&store), "memory://whole", None);
        let ctx = corpus.context(&root, &[]);
        if let Ok((_, plan)) = died {
            assert!(puts.load(Ordering::SeqCst) < nth);
            for name in TaskStage::NAMES {
                stage(&ctx, plan.plan_key.as_ref().unwrap(), name.parse().unwrap()).await.unwrap();
            }
            Box::pin(publish_plan(&ctx, plan.plan_key.as_ref().unwrap(), &RunOptions::default()))
                .await
                .unwrap();
            assert_eq!(content(&root).await, expected);
            assert!(nth > 15, "{nth} puts");
            return;
        }
        let plans = keys(&root, "runs").await;
        let Some(key) = plans.iter().find(|key| key.ends_with("/shares.json")) else {
            nth += 1;
            continue;
        };
        // The scheduler repeats what failed: what has a receipt is not done again.
        let receipts = receipts(&root).await;
        stage(&ctx, key, TaskStage::Prepare).await.unwrap();
        stage(&ctx, key, TaskStage::Gather).await.unwrap();
        let kept = self::receipts(&root).await;
        assert!(receipts.iter().all(|receipt| kept.contains(receipt)), "{nth}");
        let plan = Box::pin(exec::plan_gathered(&ctx, key)).await.unwrap().plan_key.unwrap();
        for name in TaskStage::NAMES {
            stage(&ctx, &plan, name.parse().unwrap()).await.unwrap();
        }
        Box::pin(publish_plan(&ctx, &plan, &RunOptions::default())).await.unwrap();
        assert_eq!(content(&root).await, expected, "died at put {nth}");
        nth += 3;
    }
}

/// Receipts of shares and shards with what they say; none where there is a plan already.
async fn receipts(root: &Root) -> Vec<(String, bytes::Bytes)> {
    let mut found = Vec::new();
    for key in keys(root, "prepared").await.into_iter().filter(|key| key.ends_with(".json")) {
        let bytes = root.get(&key).await.unwrap();
        found.push((key, bytes));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_plan_is_refused() {
    let corpus = Corpus::new(3, "jsonl");
    let root = Root::in_memory();
    let ctx = corpus.context(&root, &[]);
    let shares = Box::pin(exec::plan_shares(&ctx)).await.unwrap();
    let key = shares.shares_key.unwrap();
    let kind = |error: scalingnote::error::Error| error.kind();
    // Out of order: to be repeated.
    let early = stage(&ctx, &key, TaskStage::Gather).await.map_err(kind);
    assert_eq!(early, Err(ErrorKind::Transient));
    assert_eq!(
        Box::pin(exec::plan_gathered(&ctx, &key)).await.map_err(kind).err(),
        Some(ErrorKind::Transient)
    );
    // Another pipeline.
    let other = corpus.context(&root, &["corpus.template={{ body }}!"]);
    assert_eq!(
        stage(&other, &key, TaskStage::Prepare).await.map_err(kind),
        Err(ErrorKind::Conflict)
    );
    // A share beyond the number of tasks.
    let beyond = exec::execute_share(&ctx, &key, TaskStage::Prepare, "7/8".parse().unwrap(), 1);
    assert_eq!(beyond.await.unwrap().tasks, 0);
    // A file that changed: before it is read, and after.
    let changed =
        || std::fs::OpenOptions::new().append(true).open(corpus.0.path().join("notes/1.jsonl"));
    let length = std::fs::metadata(corpus.0.path().join("notes/1.jsonl")).unwrap().len();
    std::io::Write::write_all(&mut changed().unwrap(), b"\n").unwrap();
    let error = stage(&ctx, &key, TaskStage::Prepare).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Input && error.to_string().contains("1.jsonl"), "{error}");
    changed().unwrap().set_len(length).unwrap();

    let again = Box::pin(exec::plan_shares(&ctx)).await.unwrap().shares_key.unwrap();
    stage(&ctx, &again, TaskStage::Prepare).await.unwrap();
    std::io::Write::write_all(&mut changed().unwrap(), b"\n").unwrap();
    stage(&ctx, &again, TaskStage::Gather).await.unwrap();
    let error = Box::pin(exec::plan_gathered(&ctx, &again)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Input && error.to_string().contains("1.jsonl"), "{error}");

    // One task: nothing to share, and the usual plan.
    let one = exec::plan_shares(&corpus.context(&root, &["corpus.share_mib=1000"])).await.unwrap();
    assert_eq!((one.shares_key, one.prepare_tasks, one.gather_tasks), (None, 0, 0));
    assert!(one.reading.to_string().contains("one share of corpus.share_mib"), "{}", one.reading);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_finds_wrong_has_its_place() {
    let corpus = Corpus::new(3, "jsonl");
    let root = Root::in_memory();
    let sql = "corpus.sql=select id as note_id, body, cast(body as bigint) as likes, at as updated_at \
               from notes";
    let ctx = corpus.context(&root, &[sql]);
    let key = Box::pin(exec::plan_shares(&ctx)).await.unwrap().shares_key.unwrap();
    let error = stage(&ctx, &key, TaskStage::Prepare).await.unwrap_err().to_string();
    assert!(error.starts_with("--set corpus.sql: reading the corpus: "), "{error}");
}
