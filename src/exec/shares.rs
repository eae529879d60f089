//! A scheduler's share of a stage: of the tasks of a stored plan, or, before there is one, of the corpus.

use super::backfill::{self, Course};
use super::context::{RunContext, Session};
use super::tasks::{Share, ShareDone, TaskStage, share_of_plan};
use crate::error::Result;
use crate::stage::{Plan, SharesPlan};
use crate::store::layout;

/// Executes one share of a stage of a stored plan on every configured device, of the stages `prepare` and `gather` on every
/// core. The model is loaded once; a task that is done does nothing; a share beyond the number of tasks is empty.
/// Transient failures of a device's tasks are tried again, `attempts` times in all.
///
/// `plan_key` is the run id, or the plan's key: `runs/<run id>/plan.json`, of `prepare` and `gather`
/// `runs/<run id>/shares.json`.
///
/// # Errors
/// Transient, where the stage before is not finished; else whatever stopped a task.
pub async fn execute_share(
    ctx: &RunContext,
    plan_key: &str,
    stage: TaskStage,
    share: Share,
    attempts: u32,
) -> Result<ShareDone> {
    match stage {
        TaskStage::Prepare | TaskStage::Gather => {
            Box::pin(share_of_corpus(ctx, layout::run_of(plan_key), stage, share)).await
        }
        _ => Box::pin(share_of_plan(ctx, plan_key, stage, share, attempts)).await,
    }
}

/// Reads some shares of a corpus, or gathers some shards of it, on every core.
async fn share_of_corpus(
    ctx: &RunContext,
    run: &str,
    stage: TaskStage,
    share: Share,
) -> Result<ShareDone> {
    let done = |tasks: Vec<u32>| {
        let (run, share, tasks) = (run.to_owned(), share.to_string(), tasks.len() as u64);
        ShareDone { run, stage, share, tasks, texts: 0, tokens: 0 }
    };
    // Once there is a plan nothing is left to do, however the corpus was read.
    if ctx.root.size(&Plan::key(run)).await?.is_some() {
        return Ok(done(Vec::new()));
    }
    let plan = SharesPlan::load(&ctx.root, run).await?;
    let Course { session, .. } = backfill::course(&Session::new(ctx)).await?;
    let tasks = match stage {
        TaskStage::Prepare => {
            let shares: Vec<u32> = (0..plan.corpus.shares.len() as u32).collect();
            let shares = share.of(&shares);
            session.read(&plan, &shares).await?;
            shares
        }
        _ => {
            let shards: Vec<u32> = (0..plan.corpus.shard_count).collect();
            let shards = share.of(&shards);
            session.gather(&plan, &shards).await?;
            shards
        }
    };
    Ok(done(tasks))
}
