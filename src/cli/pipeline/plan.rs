//! `scalingnote plan`.

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::PipelineArgs;
use crate::error::{Result, ResultExt};
use crate::exec;

/// Show what a run would do and cost, without doing it
///
/// Reads the corpus, compares it with the newest snapshot, counts exact tokens, and estimates time
/// from a short calibration on the real device.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote plan pipelines/quickstart.toml
  scalingnote plan daily.toml --json | jq .total.tokens
  scalingnote plan daily.toml --brief | jq -r .plan_key
  scalingnote plan daily.toml --set encode.devices='[\"cuda:0\", \"cuda:1\"]'

Columns: notes new, changed, unchanged and deleted against the newest snapshot; texts to encode and
their exact tokens; the share of padding that packing saves; estimated time; bytes to be written;
memory while building the index. With [next], how far the back-fill of the next tower is; its plan
is stored beside that of the run.")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print only what a scheduler has to know, as JSON: the plan's key and the number of tasks of each
    /// stage. Needs no device, and stays small for any number of tasks.
    #[arg(long, conflicts_with = "json")]
    pub brief: bool,
}

pub(crate) async fn execute(args: PlanArgs, app: &App) -> Result<()> {
    let context = super::run::context(&args.pipeline, app)?;
    let printed = match args.brief {
        true => app.json(&exec::plan_brief(&context).await?),
        false => app.answer(args.json, &exec::plan(&context).await?, ToString::to_string),
    };
    printed.context(|| "the plan is stored, but could not be printed")
}
