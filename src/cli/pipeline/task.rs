//! `scalingnote task`.

use std::time::Duration;

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};

use crate::cli::app::App;
use crate::cli::args::{PipelineArgs, duration};
use crate::error::{Result, ResultExt};
use crate::exec::{self, RunOptions, Share, TaskStage};

/// Run tasks of a stored plan, for Airflow, Kubernetes and similar schedulers
///
/// `plan` and `run --plan-only` store the plan. Run the stages encode, calibrate and build in this
/// order, and adapt after encode; `publish` is the last step. To read the corpus in shares too,
/// store a plan of shares first with `plan --shares`: stage prepare reads the shares, gather
/// follows, then `plan --gathered` plans the rest. A task that is already done does nothing, so
/// retries and duplicate attempts are safe. Prints the receipt of one task, or the sum of a share,
/// as JSON.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote plan daily.toml --brief | jq -r .plan_key
  scalingnote task daily.toml --plan \"$SHARES\" --stage prepare --share 0/8
  scalingnote task daily.toml --plan \"$PLAN\" --stage encode --share 0/8  the first of 8 equal jobs
  scalingnote task daily.toml --plan \"$PLAN\" --stage calibrate
  scalingnote task daily.toml --plan \"$PLAN\" --stage adapt               with [query.adapt] only
  scalingnote task daily.toml --plan 20250101T000000Z-1a2b3c4d --task encode-00017-b141f1cba5c376d4
  SCALINGNOTE_PIPELINE=/config/daily.toml scalingnote task --plan \"$PLAN\" --task \"$TASK\"")]
pub(crate) struct TaskArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Plan to use: its run id, or its key under the root (runs/<run id>/plan.json).
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub plan: String,
    /// Run the task with this id in the plan.
    #[arg(long, value_name = "ID", conflicts_with = "share")]
    pub task: Option<String>,
    /// Run all tasks of this stage, or only its --share.
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(TaskStage::NAMES),
          conflicts_with = "task", required_unless_present = "task")]
    pub stage: Option<String>,
    /// Run every COUNT-th task of the stage, starting from INDEX (0 to COUNT - 1).
    #[arg(long, value_name = "INDEX/COUNT", requires = "stage")]
    pub share: Option<Share>,
    /// Stop cleanly after this time (90s, 45m, 2h); run again to resume.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub deadline: Option<Duration>,
}

pub(crate) async fn execute(args: TaskArgs, app: &App) -> Result<()> {
    let context = super::run::context(&args.pipeline, app)?;
    let printed = match (&args.task, &args.stage) {
        (Some(task), _) => app.json(&exec::execute_task(&context, &args.plan, task).await?),
        (None, stage) => {
            // The parser demands one of the two.
            let stage: TaskStage = stage.as_deref().unwrap_or_default().parse()?;
            let share = args.share.unwrap_or(Share::ALL);
            let attempts = RunOptions::default().attempts;
            let done = exec::execute_share(&context, &args.plan, stage, share, attempts).await?;
            app.json(&done)
        }
    };
    printed.context(|| "the work is done and its receipts are stored, but could not be printed")
}
