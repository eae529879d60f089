//! `scalingnote whiten`.

use std::path::PathBuf;

use clap::Args;

use super::long_run::unprinted;
use super::recipe::{self, Recipe};
use super::trained;
use crate::cli::app::App;
use crate::cli::args::{device, place};
use crate::error::{Result, ResultExt};
use crate::exec::learn::{self, WhitenRequest, Whitened};
use crate::observe::format;
use crate::tower::DeviceSpec;
use crate::train::{TrainOptions, WhitenOptions};

/// Fit a head that evens out the directions of a tower's vectors
///
/// An LLM's vectors crowd into a few directions that all texts share. The head subtracts their mean
/// and divides out a power of each direction's variance (soft whitening). It is fitted in minutes,
/// without training, to the queries and documents of a training recipe.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote whiten recipe.toml --out whitened
  scalingnote whiten recipe.toml --adapter run --out whitened   with what `train --out run` wrote

Set tower.head to the result in a pipeline file. Set query.tower.head to it too if the query tower
was distilled from the tower without it: vectors that compare without the head still compare when
both go through it. Vectors are kept as Parquet in --out and reused.")]
pub(crate) struct WhitenArgs {
    /// Training recipe (TOML).
    #[arg(value_name = "RECIPE", value_parser = place::path())]
    recipe: PathBuf,
    /// Folder for the head and the vectors.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    out: PathBuf,
    /// What has been trained so far: a LoRA adapter's folder, or what `train --out` wrote. Defaults
    /// to the recipe's adapter.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    adapter: Option<PathBuf>,
    /// Power of each direction's variance to divide out: 0 only subtracts the mean, 0.5 whitens
    /// fully.
    #[arg(long, value_name = "POWER", default_value_t = WhitenOptions::default().power)]
    power: f64,
    /// Maximum number of texts to fit the head to.
    #[arg(long, value_name = "N", default_value_t = WhitenOptions::default().texts)]
    texts: usize,
    /// Device to compute on: cpu, cpu:<threads>, or cuda:<number> (if built with feature cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    device: DeviceSpec,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: WhitenArgs, app: &App) -> Result<()> {
    let Recipe { written, base_dir } =
        recipe::open::<TrainOptions>(&args.recipe, &["student"], "distill")?;
    let (faults, missing) = (written.options.faults(), written.options.missing_files(&base_dir));
    recipe::check(&written, faults, missing, |section| {
        section == "pairs" || (args.adapter.is_none() && matches!(section, "tower" | "query"))
    })?;
    let options = written.options;
    let (query, document) = trained::towers(&options, &base_dir, args.adapter.as_deref())?;
    let whitening = WhitenOptions { power: args.power, texts: args.texts };
    whitening.validate()?;
    let context = app.learning(base_dir, args.out.clone(), vec![args.device]);
    let request = WhitenRequest { options, whitening, query, document };
    let whitened = recipe::naming(&args.recipe, learn::whiten(request, &context).await)?;
    app.answer(args.json, &whitened, summary).context(unprinted(&args.out))
}

fn summary(answer: &Whitened) -> String {
    format!(
        "fitted to {}: the mean cosine of two of them was {:.3} and is {:.3}\nnext:\n  tower.head = \"{}\"\n",
        format::counted(answer.texts as u64, "text"),
        answer.crowding_before,
        answer.crowding_after,
        answer.head.display()
    )
}
