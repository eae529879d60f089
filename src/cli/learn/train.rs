//! `scalingnote train`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::long_run::{listing, named, output, outputs, unprinted};
use super::recipe::{self, Recipe};
use crate::cli::app::App;
use crate::cli::args::{device, duration, place};
use crate::error::{Result, ResultExt};
use crate::exec::learn;
use crate::observe::format;
use crate::tower::DeviceSpec;
use crate::train::{TrainOptions, TrainReport};

/// Train the towers: teach an LLM to embed, by contrastive learning
///
/// Pulls a query and the document that answers it together, and pushes all others in the batch
/// apart. Writes checkpoints, and at the end the adapter and report.html with the curves. You can
/// interrupt it at any time; the same command resumes where it stopped, and reaches the same
/// losses.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote train pipelines/train-quickstart.toml --out .cache/tower
  scalingnote train recipe.toml --out t --deadline 45m        stop in time (exit 75); rerun resumes
  scalingnote train recipe.toml --out try --steps 20          a short trial, in a folder of its own
  scalingnote train recipe.toml --out t --export a --f16      the adapter so far, at half the size
  scalingnote evaluate recipe.toml sets/scifact --adapter t   how good is it?

A recipe names the model ([tower], [query]), the pairs ([[pairs]]: folders in BEIR layout or JSON
Lines of {\"query\", \"text\"}), what is trained ([method]: \"lora\" or \"full\") and how long.
[teacher] names an embedder whose scores the tower learns through [loss], and [[texts]] more texts
to learn them on. With optimizer.schedule = \"constant\", a run that is given more steps continues
from where it ended.
[query] layers = 4 gives the query side the LLM's first 4 layers, with parameters of its own, and
[query.student] gives it a small encoder. Both sides are trained together, end to end.
`scalingnote schema train` lists every key. The adapter is in PEFT format: set tower.adapter to its
folder in a pipeline file, or load it in Python.")]
pub(crate) struct TrainArgs {
    /// Recipe (TOML). Relative paths in it are resolved against its own directory.
    #[arg(value_name = "RECIPE", value_parser = place::path())]
    recipe: PathBuf,
    /// Folder for the run: checkpoint.safetensors, best-*.safetensors, teacher/, adapter/ or
    /// model/, query-adapter/ or query-model/, report.json, report.html. If it holds a checkpoint,
    /// the run resumes from it. Defaults to .cache/train/<name of the recipe>.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    out: Option<PathBuf>,
    /// Train for this many steps instead of the recipe's. Unless optimizer.schedule is "constant",
    /// the learning rate depends on the number of steps, so a different number makes a different
    /// run.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Stop cleanly after this time (90s, 45m, 2h, 1h30m); run again to resume.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub deadline: Option<Duration>,
    /// Device to compute on: cpu, cpu:<threads>, or cuda:<number> (if built with feature cuda).
    /// Repeatable: the devices share every batch; each embeds a part of it, and the loss contrasts
    /// a query with the documents of all of them.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    device: Vec<DeviceSpec>,
    /// Train nothing; write the adapter of the run to this folder: the one a finished run wrote, the
    /// one with the best validation result so far, or the checkpoint's if nothing was validated yet.
    #[arg(long, value_name = "DIR", conflicts_with = "deadline", value_parser = place::path())]
    export: Option<PathBuf>,
    /// Export 16-bit floats, which halves the size.
    #[arg(long, requires = "export")]
    f16: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: TrainArgs, app: &App) -> Result<()> {
    let Recipe { mut written, base_dir } =
        recipe::open::<TrainOptions>(&args.recipe, &["student"], "distill")?;
    written.options.steps = args.steps.or(written.options.steps);
    let (faults, missing) = (written.options.faults(), written.options.missing_files(&base_dir));
    recipe::check(&written, faults, missing, |section| {
        section != "teacher" || args.export.is_none()
    })?;
    let options = written.options;
    let output = output(args.out, &args.recipe)?;
    let context = app.learning(base_dir, output.clone(), args.device);
    if let Some(target) = args.export {
        let steps = learn::export(options, context, &target, args.f16).await;
        let steps = named(&args.recipe, steps)?;
        let found = serde_json::json!({ "steps": steps, "written": outputs(&target) });
        let printed = app.answer(args.json, &found, |_| {
            let steps = format::counted(steps, "step");
            format!("exported the best of {steps} so far\n{}", listing(&target))
        });
        return printed.context(unprinted(&target));
    }
    let report = named(&args.recipe, learn::train(options, context).await)?;
    app.answer(args.json, &report, |report| summary(report, &output)).context(unprinted(&output))
}

fn summary(report: &TrainReport, output: &Path) -> String {
    let mut text = format!(
        "trained {} of {} on {}: {:.2} pairs/s, {:.0} tokens/s\n",
        report.steps.len(),
        format::counted(report.planned_steps, "step"),
        format::counted(report.training_pairs as u64, "pair"),
        report.pairs_per_second,
        report.tokens_per_second
    );
    if let (Some(first), Some(last)) = (report.steps.first(), report.steps.last()) {
        let _ = writeln!(text, "  batch loss       {:.4} -> {:.4}", first.loss, last.loss);
    }
    if let (Some(first), Some(last)) = (report.validation.first(), report.validation.last()) {
        let _ = writeln!(text, "  held-out loss    {:.4} -> {:.4}", first.loss, last.loss);
        let _ = writeln!(text, "  held-out nDCG@10 {:.4} -> {:.4}", first.score, last.score);
        let _ = writeln!(
            text,
            "  own doc. first   {:.1}% -> {:.1}% of held-out queries",
            100.0 * first.accuracy,
            100.0 * last.accuracy
        );
    }
    if !report.exported.is_empty() {
        let steps: Vec<String> = report.exported.iter().map(u64::to_string).collect();
        let _ = writeln!(text, "  exported         after step {}", steps.join(", "));
    }
    text + &listing(output)
}
