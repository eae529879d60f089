//! `scalingnote plan`.

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::PipelineArgs;
use crate::error::{Result, ResultExt};
use crate::exec;

/// Show what a run would do and cost, without running it
///
/// Reads the corpus, compares it with the newest snapshot, counts tokens exactly, and estimates the
/// time from a short calibration on the actual device.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote plan pipelines/quickstart.toml
  scalingnote plan daily.toml --json | jq .total.tokens
  scalingnote plan daily.toml --brief | jq -r .plan_key
  scalingnote plan daily.toml --shares | jq -r .shares_key
  scalingnote plan daily.toml --brief --gathered \"$SHARES\"
  scalingnote plan daily.toml --set encode.devices='[\"cuda:0\", \"cuda:1\"]'

Columns: notes that are new, changed, unchanged and deleted compared with the newest snapshot; texts
to encode and their exact number of tokens; the share of padding that packing saves; estimated time;
bytes to write; memory needed to build the index. With [next], also how far the back-fill of the
next tower has come; its plan is stored next to that of the run.")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print only what a scheduler needs, as JSON: the plan's key and the number of tasks in each
    /// stage. Needs no device, and the output stays small for any number of tasks.
    #[arg(long, conflicts_with = "json")]
    pub brief: bool,
    /// Plan the shares in which other processes can read the corpus, and print only how many there
    /// are, as JSON. Next come `task --stage prepare`, `task --stage gather`, and the plan with
    /// --gathered.
    #[arg(long, conflicts_with_all = ["json", "brief"])]
    pub shares: bool,
    /// Plan of shares whose tasks are done: its run id, or its key under the root. Requires
    /// --brief. If it is empty, this command reads the corpus itself.
    #[arg(long, value_name = "KEY", requires = "brief")]
    pub gathered: Option<String>,
}

pub(crate) async fn execute(args: PlanArgs, app: &App) -> Result<()> {
    let context = super::run::context(&args.pipeline, app)?;
    let printed = match (args.shares, args.brief) {
        (true, _) => app.json(&exec::plan_shares(&context).await?),
        (_, true) => app.json(&match args.gathered.as_deref().filter(|key| !key.is_empty()) {
            Some(key) => exec::plan_gathered(&context, key).await?,
            None => exec::plan_brief(&context).await?,
        }),
        _ => app.answer(args.json, &exec::plan(&context).await?, ToString::to_string),
    };
    printed.context(|| "the plan is stored, but could not be printed")
}
