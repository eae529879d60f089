//! `scalingnote mine`.

use std::path::PathBuf;

use clap::Args;

use super::long_run::unprinted;
use super::recipe::{self, Recipe};
use super::trained;
use crate::cli::app::App;
use crate::cli::args::{device, place};
use crate::error::{Result, ResultExt};
use crate::exec::learn::{self, MineRequest, Mined, Ranking};
use crate::observe::format;
use crate::tower::DeviceSpec;
use crate::train::{MineOptions, TrainOptions};

/// Mine hard negatives for the next round of training
///
/// Encodes the recipe's queries and documents with the tower as trained so far, searches
/// ScalingNote's own index, and gives every pair some documents that rank high for its query but do
/// not answer it. Documents that score nearly as high as the answer are left out, because they are
/// probably answers too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote train recipe.toml --out round1
  scalingnote mine recipe.toml --adapter round1 --out mined
  scalingnote mine recipe.toml --teacher --out mined   with the recipe's [teacher], not its [tower]
  scalingnote train round2.toml --out round2

In round2.toml, [[pairs]] name mined/*.jsonl, and tower.adapter is round1/adapter.

One file is written for each of the recipe's [[pairs]], in order. Vectors are kept as Parquet in
--out and reused if the tower is the same. The scores are kept with the negatives, so that
loss.guide_margin of the next round can skip those that score nearly as high as the answer.")]
pub(crate) struct MineArgs {
    /// Training recipe (TOML).
    #[arg(value_name = "RECIPE", value_parser = place::path())]
    recipe: PathBuf,
    /// Folder for the pairs and the vectors.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    out: PathBuf,
    /// What has been trained so far: a LoRA adapter's folder, or what `train --out` wrote. Defaults
    /// to the recipe's adapter.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    adapter: Option<PathBuf>,
    /// Let the recipe's [teacher] rank the documents.
    #[arg(long, conflicts_with = "adapter")]
    teacher: bool,
    /// Number of top ranks to skip, not counting known answers: the likeliest false negatives.
    #[arg(long, value_name = "N", default_value_t = MineOptions::default().skip)]
    skip: usize,
    /// Number of ranks to consider after those.
    #[arg(long, value_name = "N", default_value_t = MineOptions::default().window)]
    window: usize,
    /// Treat a document that scores above this share of the answer's score as a false negative.
    #[arg(long, value_name = "SHARE", default_value_t = MineOptions::default().margin)]
    margin: f32,
    /// Number of negatives to keep per pair.
    #[arg(long, value_name = "N", default_value_t = MineOptions::default().keep)]
    keep: usize,
    /// Device to compute on: cpu, cpu:<threads>, or cuda:<number> (if built with feature cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    device: DeviceSpec,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: MineArgs, app: &App) -> Result<()> {
    let Recipe { written, base_dir } =
        recipe::open::<TrainOptions>(&args.recipe, &["student"], "distill")?;
    let (faults, missing) = (written.options.faults(), written.options.missing_files(&base_dir));
    recipe::check(&written, faults, missing, |section| match section {
        "pairs" => true,
        "teacher" => args.teacher,
        _ => !args.teacher && args.adapter.is_none() && matches!(section, "tower" | "query"),
    })?;
    let options = written.options;
    let ranking = if args.teacher {
        Ranking::Teacher
    } else {
        let (query, document) = trained::towers(&options, &base_dir, args.adapter.as_deref())?;
        Ranking::Towers { query: Box::new(query), document: Box::new(document) }
    };
    let mining = MineOptions {
        skip: args.skip,
        window: args.window,
        margin: args.margin,
        keep: args.keep,
        seed: options.seed,
    };
    mining.validate()?;
    let context = app.learning(base_dir, args.out.clone(), vec![args.device]);
    let mined = learn::mine(MineRequest { options, mining, ranking }, &context).await;
    let mined = recipe::naming(&args.recipe, mined)?;
    app.answer(args.json, &mined, summary).context(unprinted(&args.out))
}

fn summary(answer: &Mined) -> String {
    let report = &answer.report;
    let mut text = format!(
        "{} of {} got negatives, {} in all; refused {} as likely answers, {} as answers\n",
        report.with_negatives,
        format::counted(report.pairs, "pair"),
        report.negatives,
        format::counted(report.refused_by_margin, "candidate"),
        report.refused_as_answers
    );
    if report.with_negatives == 0 && report.refused_by_margin > 0 {
        text += "  all that ranks high scores nearly as the answers do: the tower tells little apart yet; train it further, or \
                 raise --margin\n";
    }
    for file in &answer.files {
        text += &format!("  {}\n", file.display());
    }
    text
}
