//! What a service may spawn: every driver's future is `Send`, so a multi-threaded runtime takes it.

use std::path::Path;
use std::sync::Arc;

use scalingnote::config::resolve_text;
use scalingnote::exec::{self, RunContext, RunOptions, Share, TaskStage};
use scalingnote::observe::{Reporter, Silent};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::snapshot;
use scalingnote::stage::{EncodeOptions, PurgeRequest};
use scalingnote::store::Root;
use scalingnote::tower::TowerOptions;
use scalingnote::types::Cancel;

use crate::fixture::pipeline::PipelineFile;

fn spawnable<F: Future + Send>(future: F) -> F {
    future
}

/// That it compiles is the test: it is never called.
#[expect(dead_code, reason = "the compiler is the judge")]
fn every_driver(
    ctx: &RunContext,
    purge: PurgeRequest<'_>,
    tower: &TowerOptions,
    reporter: &Arc<dyn Reporter>,
) {
    let (options, mut report) = (RunOptions::default(), RunReport::default());
    drop(spawnable(exec::run(ctx, &options)));
    drop(spawnable(exec::run_into(ctx, &options, &mut report)));
    drop(spawnable(exec::publish_plan(ctx, "run", &options, &mut report)));
    drop(spawnable(exec::plan(ctx)));
    drop(spawnable(exec::plan_brief(ctx)));
    drop(spawnable(exec::execute_task(ctx, "run", "task")));
    drop(spawnable(exec::execute_share(ctx, "run", TaskStage::Encode, Share::ALL, 1)));
    drop(spawnable(exec::purge(purge)));
    let (encode, folder) = (EncodeOptions::default(), Path::new("."));
    drop(spawnable(exec::encode_texts(
        tower,
        folder,
        &["text"],
        &encode,
        folder,
        reporter,
        &ctx.cancel,
    )));
}

/// Two runs as tasks of one runtime, each of a root of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_spawned_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let notes: String =
        (0..40).map(|id| format!("{{\"id\": {id}, \"body\": \"note {id}\"}}\n")).collect();
    std::fs::write(folder.path().join("notes.jsonl"), notes).unwrap();
    let text = PipelineFile::default().text();
    let pipeline = resolve_text(&text, "spawned.toml", folder.path(), [], &[]).unwrap().pipeline;
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let root = Root::in_memory();
            let ctx = RunContext {
                pipeline: pipeline.clone(),
                root: root.clone(),
                reporter: Arc::new(Silent),
                cancel: Cancel::new(),
            };
            let run = async move { exec::run(&ctx, &RunOptions::default()).await };
            (root, tokio::spawn(run))
        })
        .collect();
    let mut contents = Vec::new();
    for (root, run) in runs {
        let report = run.await.unwrap().unwrap();
        assert_eq!(report.outcome, Outcome::Published { snapshot: 1 });
        contents.push(snapshot::newest(&root).await.unwrap().unwrap().content_hash);
    }
    assert_eq!(contents[0], contents[1]);
}
