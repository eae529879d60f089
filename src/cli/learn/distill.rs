//! `scalingnote distill`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::long_run::{listing, named, output, unprinted};
use super::pack::{self, PackArgs};
use super::recipe::{self, Recipe};
use crate::cli::app::App;
use crate::cli::args::{device, duration, place};
use crate::error::{Result, ResultExt};
use crate::exec::learn;
use crate::observe::format;
use crate::tower::DeviceSpec;
use crate::train::{DistillOptions, TrainReport};

/// Distil the query tower into a small model
///
/// It only needs queries: the small model learns to place a query where the frozen LLM query tower
/// places it (squared distance and cosine), so no document is encoded again. The teacher's vectors
/// are encoded once, by the pipeline's own encode stage, and kept as Parquet in the run's folder.
/// You can interrupt it at any time; the same command resumes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote distill pipelines/distill-quickstart.toml --out .cache/student
  scalingnote distill pipelines/distill-notes.toml --out s  teach the quick-start student your notes
  scalingnote distill recipe.toml --out s --deadline 45m    stop in time (exit 75); rerun resumes
  scalingnote distill recipe.toml --out s --export small --tokens 16000   pack it for shipping

Then name it in the pipeline file. The next run publishes a snapshot that admits it, and encodes
nothing:
  [query.tower]
  model = \"s/student\"
  pooling = \"mean\"
  max_tokens = 64

A recipe names the teacher ([teacher]: the LLM with its adapter and the query prompt), the queries
([[pairs]], as for train) and the model that learns ([student]). `scalingnote schema distill` lists
every key.")]
pub(crate) struct DistillArgs {
    /// Recipe (TOML). Relative paths in it are resolved against its own directory.
    #[arg(value_name = "RECIPE", value_parser = place::path())]
    recipe: PathBuf,
    /// Folder for the run: teacher/, checkpoint.safetensors, student/, report.json, report.html. If
    /// it holds a checkpoint, the run resumes from it. Defaults to .cache/train/<name of the
    /// recipe>.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    out: Option<PathBuf>,
    /// Train for this many steps instead of the recipe's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Stop cleanly after this time (90s, 45m, 2h, 1h30m); run again to resume.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub deadline: Option<Duration>,
    /// Device for the teacher: cpu, cpu:<threads>, or cuda:<number> (if built with feature cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    device: DeviceSpec,
    /// Train nothing; pack the encoder that the run in --out has trained into this folder, with few
    /// bits per weight and without its tokenizer (student/tokenizer.json of the run), which it
    /// names by SHA-256. `tokenizer` in [query.tower] says where that file is.
    #[arg(long, value_name = "DIR", conflicts_with = "deadline", value_parser = place::path())]
    export: Option<PathBuf>,
    #[command(flatten)]
    pack: PackArgs,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: DistillArgs, app: &App) -> Result<()> {
    let Recipe { mut written, base_dir } =
        recipe::open::<DistillOptions>(&args.recipe, &["tower", "method"], "train")?;
    written.options.steps = args.steps.or(written.options.steps);
    let (faults, missing) = (written.options.faults(), written.options.missing_files(&base_dir));
    recipe::check(&written, faults, missing, |section| {
        section == "pairs" || args.export.is_none()
    })?;
    let options = written.options;
    let output = output(args.out, &args.recipe)?;
    let context = app.learning(base_dir, output.clone(), vec![args.device]);
    if let Some(target) = args.export {
        let packed = learn::pack(&options, args.pack.request(), &context, &target).await;
        let packed = recipe::naming(&args.recipe, packed)?;
        let printed = app.answer(args.json, &packed, |packed| pack::summary(packed, &target));
        return printed.context(unprinted(&target));
    }
    let report = named(&args.recipe, learn::distill(options, context).await)?;
    app.answer(args.json, &report, |report| summary(report, &output)).context(unprinted(&output))
}

fn summary(report: &TrainReport, output: &Path) -> String {
    let mut text = format!(
        "distilled {} of {} on {}: {:.1} queries/s\n",
        report.steps.len(),
        format::counted(report.planned_steps, "step"),
        format::counted(report.training_pairs as u64, "query"),
        report.pairs_per_second,
    );
    if let (Some(first), Some(last)) = (report.validation.first(), report.validation.last()) {
        let _ = writeln!(
            text,
            "  held-out cosine  {:.4} -> {:.4} to the teacher",
            first.accuracy, last.accuracy
        );
    }
    text + &listing(output)
}
