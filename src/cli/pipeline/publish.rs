//! `scalingnote publish`.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::metrics::MetricsArgs;
use super::run::{OverrideArgs, context, finish};
use crate::cli::app::App;
use crate::cli::args::PipelineArgs;
use crate::error::Result;
use crate::exec::{self, RunOptions};
use crate::report::RunReport;

/// Check the gates and publish what the tasks of a stored plan built
///
/// This is the last step when a scheduler has run the tasks with `scalingnote task`; `run` does
/// this on its own. Publishing the same plan again does nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote publish daily.toml --plan runs/20250101T000000Z-1a2b3c4d/plan.json
  scalingnote publish daily.toml --plan 20250101T000000Z-1a2b3c4d --json | jq .outcome")]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Plan to use: its run id, or its key under the root (runs/<run id>/plan.json).
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    plan: String,
    #[command(flatten)]
    overrides: OverrideArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: PublishArgs, app: &App) -> Result<ExitCode> {
    args.metrics.check()?;
    let mut report = RunReport::default();
    let outcome = attempt(&args, app, &mut report).await;
    args.metrics.record(&args.pipeline, &report, outcome, app)
}

async fn attempt(args: &PublishArgs, app: &App, report: &mut RunReport) -> Result<u8> {
    let options = RunOptions { overrides: args.overrides.pairs()?, ..RunOptions::default() };
    let context = context(&args.pipeline, app)?;
    exec::publish_plan(&context, &args.plan, &options, report).await?;
    finish(report, &context, &args.pipeline, args.json, app)
}
