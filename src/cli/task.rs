//! `scalingnote task`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::App;
use super::args::PipelineArgs;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::exec;

/// Execute one task of a stored plan, for Airflow, Kubernetes and the like
///
/// `run --plan-only` stores the plan. A task that is done already does nothing, so retries and
/// doubled attempts are safe. Prints the receipt as JSON.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote run daily.toml --plan-only --json | jq -r .run
  scalingnote task daily.toml --plan runs/20250101T000000Z-1a2b/plan.json --task encode-00017-3
  SCALINGNOTE_PIPELINE=/config/daily.toml scalingnote task --plan \"$PLAN\" --task \"$TASK\"")]
pub(crate) struct TaskArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Key of the plan under the root: runs/<run id>/plan.json.
    #[arg(long, value_name = "KEY")]
    pub plan: String,
    /// Id of the task in the plan.
    #[arg(long, value_name = "ID")]
    pub task: String,
    /// Stop cleanly after this time (90s, 45m, 2h); running again resumes.
    #[arg(long, value_name = "TIME", value_parser = super::duration::parse)]
    pub deadline: Option<Duration>,
}

pub(super) async fn execute(args: TaskArgs, app: &App) -> Result<ExitCode> {
    let context = super::run::context(&args.pipeline, app)?;
    let receipt = exec::execute_task(&context, &args.plan, &args.task).await?;
    app.console.close();
    let mut json = serde_json::to_string_pretty(&receipt)
        .or_error(ErrorKind::Internal, || "writing the receipt")?;
    json.push('\n');
    app.console.print(&json);
    Ok(ExitCode::SUCCESS)
}
