//! A share of a stage: every n-th task of a stored plan, for schedulers that run one stage as n equal jobs.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use super::local;
use super::receipts::{Receipts, all_of};
use crate::error::{Error, Result};
use crate::exec::context::{RunContext, Session};
use crate::snapshot;
use crate::stage::{self, EncodeTask, Envelope, Plan, RunSpec, TaskReceipt};
use crate::store::layout;
use crate::tower::Tower;

/// A stage whose tasks a scheduler runs. They follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStage {
    /// Read shares of the corpus, before there is a plan.
    Prepare,
    /// Gather the prepared notes of shards from all shares.
    Gather,
    /// Encode texts.
    Encode,
    /// Freeze the scale of quantised vectors: one task, or none where it is frozen.
    Calibrate,
    /// Adapt the query tower: one task, or none where the pipeline asks for none or nothing changed.
    Adapt,
    /// Build indexes.
    Build,
}

impl TaskStage {
    /// The names of all, in order.
    pub const NAMES: [&'static str; 6] =
        ["prepare", "gather", "encode", "calibrate", "adapt", "build"];
}

impl FromStr for TaskStage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "prepare" => Ok(Self::Prepare),
            "gather" => Ok(Self::Gather),
            "encode" => Ok(Self::Encode),
            "calibrate" => Ok(Self::Calibrate),
            "adapt" => Ok(Self::Adapt),
            "build" => Ok(Self::Build),
            _ => Err(Error::usage(format!(
                "no stage `{name}`; stages of tasks are {}",
                Self::NAMES.join(", ")
            ))),
        }
    }
}

/// Share `index` of `of`: the tasks at `index`, `index + of`, `index + 2 of`, ... Written `index/of`, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    index: u32,
    of: u32,
}

impl Share {
    /// Every task.
    pub const ALL: Self = Self { index: 0, of: 1 };

    pub(in crate::exec) fn of<T: Clone>(self, tasks: &[T]) -> Vec<T> {
        tasks.iter().skip(self.index as usize).step_by(self.of as usize).cloned().collect()
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(index, of)| {
            Some(Self { index: index.parse().ok()?, of: of.parse().ok()? })
        });
        parsed.filter(|share| share.index < share.of).ok_or_else(|| {
            Error::usage(format!(
                "`{text}` is not a share; write INDEX/COUNT, the index from 0, e.g. 0/8 to 7/8"
            ))
        })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// The result of a share; its receipts are under the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShareDone {
    /// The run whose plan it is of.
    pub run: String,
    /// The stage.
    pub stage: TaskStage,
    /// `index/of`.
    pub share: String,
    /// Tasks of the share, those that were done before included.
    pub tasks: u64,
    /// Texts that were encoded for its tasks, or vectors of the indexes that were built.
    pub texts: u64,
    /// Tokens that were encoded for its tasks.
    pub tokens: u64,
}

/// Executes one share of a stage of a stored plan on every configured device. The model is loaded once; a task that
/// is done does nothing; a share beyond the number of tasks is empty. Transient failures are tried again, `attempts`
/// times in all.
///
/// # Errors
/// Transient, where the stage before is not finished; else whatever stopped a task.
pub(in crate::exec) async fn share_of_plan(
    ctx: &RunContext,
    plan_key: &str,
    stage: TaskStage,
    share: Share,
    attempts: u32,
) -> Result<ShareDone> {
    let mut plan = Plan::load(&ctx.root, layout::run_of(plan_key)).await?;
    let calibrations: Vec<_> = plan.calibrate.take().into_iter().collect();
    let adaptations: Vec<_> = plan.adapt.take().into_iter().collect();
    let (encode, build) = (std::mem::take(&mut plan.encode), std::mem::take(&mut plan.build));
    match stage {
        TaskStage::Encode => plan.encode = share.of(&encode),
        TaskStage::Calibrate => {
            plan.calibrate = share.of(&calibrations).pop();
            if plan.calibrate.is_some() && !is_frozen(ctx, &plan).await? {
                all_encoded(ctx, &plan.spec, &encode).await?;
            }
        }
        TaskStage::Adapt => {
            plan.adapt = share.of(&adaptations).pop();
            if plan.adapt.is_some() {
                all_encoded(ctx, &plan.spec, &encode).await?;
            }
        }
        TaskStage::Build => plan.build = share.of(&build),
        // Those have no plan yet.
        TaskStage::Prepare | TaskStage::Gather => {}
    }
    let mut receipts = Receipts::default();
    let mut workers = local::Workers::new(&ctx.pipeline, tower_of(&plan, ctx).await)?;
    let env = Session::new(ctx).env();
    workers.run(&plan, &ctx.pipeline, attempts, &env, &mut receipts).await?;
    Ok(ShareDone {
        run: plan.spec.run.clone(),
        stage,
        share: share.to_string(),
        tasks: plan.tasks() as u64,
        texts: receipts.encode.iter().map(|receipt| receipt.texts).sum::<u64>()
            + receipts.build.iter().map(|receipt| receipt.shard.vectors).sum::<u64>(),
        tokens: receipts.encode.iter().map(|receipt| receipt.tokens).sum(),
    })
}

/// The tower that every worker gets, where any task is yet to be done. Without one here, workers meet the error by
/// themselves, as the task's.
async fn tower_of(plan: &Plan, ctx: &RunContext) -> Option<Tower> {
    for task in &plan.encode {
        if stage::encode_receipt(task, &ctx.root).await.is_err() {
            return Tower::resolve(&task.spec.tower, Path::new("."), &ctx.reporter).await.ok();
        }
    }
    None
}

/// Executes one envelope of a stored plan, on the first configured device. Running it again returns the receipt.
///
/// `plan_key` is the run id, or the plan's key (`runs/<run id>/plan.json`).
pub async fn execute_task(ctx: &RunContext, plan_key: &str, task: &str) -> Result<TaskReceipt> {
    let plan = Plan::load(&ctx.root, layout::run_of(plan_key)).await?;
    let envelope = plan.envelope(task)?;
    match &envelope {
        Envelope::Calibrate(_) if is_frozen(ctx, &plan).await? => {}
        Envelope::Calibrate(_) | Envelope::Adapt(_) => {
            all_encoded(ctx, &plan.spec, &plan.encode).await?
        }
        Envelope::Encode(_) | Envelope::Build(_) => {}
    }
    let mut workers = local::Workers::new(&ctx.pipeline, None)?;
    let env = Session::new(ctx).env();
    if let Envelope::Encode(task) = &envelope {
        let tasks = std::slice::from_ref(task);
        let drift = stage::measure_drift(&plan.gates, tasks, workers.first(), &env).await?;
        stage::refuse_drift(drift, &plan.gates, false)?;
    }
    stage::execute(&envelope, workers.first(), &env).await
}

/// Whether the scale is fitted already, or need not wait: a next tower's is fitted on what its budget has left it so
/// far.
async fn is_frozen(ctx: &RunContext, plan: &Plan) -> Result<bool> {
    let key = layout::calibration(&plan.spec.index.id()?, &plan.spec.space_id);
    Ok(plan.backfill.is_some() || ctx.root.size(&key).await?.is_some())
}

/// Refuses to fit a scale, which is frozen for good, or to judge a query tower, before all that it is fitted on or judged by
/// is there.
async fn all_encoded(ctx: &RunContext, spec: &RunSpec, tasks: &[EncodeTask]) -> Result<()> {
    let reads = tasks.iter().map(|task| stage::encode_receipt(task, &ctx.root)).collect();
    let done = all_of(reads).await.into_iter().collect::<Result<Vec<_>>>().map(drop);
    snapshot::blame_purge(&ctx.root, &spec.run, spec.under(), done).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_a_partition() {
        let tasks: Vec<u32> = (0..10).collect();
        for of in [1, 3, 10, 17] {
            let mut all: Vec<u32> = Vec::new();
            for index in 0..of {
                let share: Share = format!("{index}/{of}").parse().unwrap();
                assert_eq!(share.to_string(), format!("{index}/{of}"));
                all.extend(share.of(&tasks));
            }
            all.sort_unstable();
            assert_eq!(all, tasks, "{of} shares");
        }
        for wrong in ["", "1", "1/", "/1", "1/1", "2/1", "0/0", "-1/2", "a/b", "1/2/3"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
        for name in TaskStage::NAMES {
            let stage: TaskStage = name.parse().unwrap();
            assert_eq!(serde_json::to_value(stage).unwrap(), name);
        }
    }
}
