//! One door for every driver: `execute` runs an envelope with what the worker has loaded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adapt::{self, AdaptReceipt};
use super::build::{self, BuildReceipt};
use super::calibration::CalibrateReceipt;
use super::encode::{self, EncodeReceipt};
use super::plan::Envelope;
use super::worker::{TaskEnv, Worker};
use crate::error::{Result, ResultExt};
use crate::snapshot::blame_purge;

/// What a finished task wrote. Running a task whose receipt exists returns that receipt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum TaskReceipt {
    /// Of an encode task.
    Encode(EncodeReceipt),
    /// Of a calibration.
    Calibrate(CalibrateReceipt),
    /// Of an adapt task.
    Adapt(Box<AdaptReceipt>),
    /// Of a build task.
    Build(Box<BuildReceipt>),
}

/// Runs one envelope. Every driver (in-process, `scalingnote task`, Ballista) calls this and nothing else.
///
/// # Errors
/// Conflict where notes were purged since it was planned; what stopped it.
pub async fn execute(
    envelope: &Envelope,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<TaskReceipt> {
    env.unless_purged(envelope.spec(), &[], |_| false).await?;
    let receipt = match envelope {
        Envelope::Encode(task) => encode::encode(task, worker, env).await.map(TaskReceipt::Encode),
        Envelope::Calibrate(task) => build::calibrate(task, env).await.map(TaskReceipt::Calibrate),
        Envelope::Adapt(task) => {
            let adapting = Box::pin(adapt::adapt(task, worker, env));
            adapting.await.map(|receipt| TaskReceipt::Adapt(Box::new(receipt)))
        }
        Envelope::Build(task) => {
            build::build(task, env).await.map(|receipt| TaskReceipt::Build(Box::new(receipt)))
        }
    };
    let (receipt, spec) = (receipt.context(|| format!("task {}", envelope.id())), envelope.spec());
    blame_purge(&env.root, &spec.run, spec.under(), receipt).await
}
