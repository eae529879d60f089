//! Runs tasks: plan once, execute envelopes.

use std::sync::Arc;

use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::Reporter;
use crate::stage::{PlanSummary, RunReport, TaskReceipt};
use crate::store::Root;
use crate::types::Cancel;

/// What a run works with.
pub struct RunContext {
    /// The resolved pipeline.
    pub pipeline: Pipeline,
    /// Where everything is stored.
    pub root: Root,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation and deadline.
    pub cancel: Cancel,
}

/// What a run is asked to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Stop after the plan is stored.
    pub only_plan: bool,
    /// Gates that may fail, each with its reason.
    pub overrides: Vec<(String, String)>,
    /// Stop after the indexes are built.
    pub no_publish: bool,
}

/// prepare -> encode -> build -> publish.
pub async fn run(ctx: &RunContext, options: &RunOptions) -> Result<RunReport> {
    let _ = (ctx, options);
    Err(Error::new(ErrorKind::Unsupported, "runs are not part of this build"))
}

/// What a run would do; nothing is encoded.
pub async fn plan(ctx: &RunContext) -> Result<PlanSummary> {
    let _ = ctx;
    Err(Error::new(ErrorKind::Unsupported, "plans are not part of this build"))
}

/// Executes one envelope of a stored plan.
pub async fn execute_task(ctx: &RunContext, plan_key: &str, task: &str) -> Result<TaskReceipt> {
    let _ = (ctx, plan_key, task);
    Err(Error::new(ErrorKind::Unsupported, "tasks are not part of this build"))
}
