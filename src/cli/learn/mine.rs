//! `scalingnote mine`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::long_run::unprinted;
use super::{recipe, teacher, trained};
use crate::cli::app::App;
use crate::cli::args::{device, place};
use crate::error::{Error, Result, ResultExt};
use crate::exec;
use crate::stage::EncodeOptions;
use crate::tower::TowerOptions;
use crate::train::{
    MineOptions, MineReport, Neighbours, TrainOptions, keep_answered, mine, open_pairs, write_pairs,
};

/// Mine hard negatives for the next round of training
///
/// Encodes the recipe's queries and documents with the tower as trained so far, searches our own
/// index, and gives every pair some documents that rank high for its query and do not answer it.
/// Documents that score nearly as high as the answer are left out: they are likely answers too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote train recipe.toml --out round1
  scalingnote mine recipe.toml --adapter round1 --out mined
  scalingnote mine recipe.toml --teacher --out mined   by the recipe's [teacher] instead of its [tower]
  scalingnote train round2.toml --out round2       its [[pairs]] name mined/*.jsonl, tower.adapter round1/adapter

One file is written for each of the recipe's [[pairs]], in its order. Vectors are kept as Parquet in
--out and used again where the tower is the same. The scores are kept with the negatives: loss.guide_margin
of the next round passes over those that score nearly as the answer does.")]
pub(crate) struct MineArgs {
    /// The training recipe (TOML).
    #[arg(value_name = "RECIPE", value_parser = place::path())]
    recipe: PathBuf,
    /// Folder for the pairs and the vectors.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    out: PathBuf,
    /// What was trained so far: a LoRA adapter's folder, or what `train --out` wrote. Default: the recipe's adapter.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    adapter: Option<PathBuf>,
    /// Let the recipe's [teacher] rank the documents.
    #[arg(long, conflicts_with = "adapter")]
    teacher: bool,
    /// Ranks skipped from the top, known answers not counted: the likeliest false negatives.
    #[arg(long, value_name = "N", default_value_t = MineOptions::default().skip)]
    skip: usize,
    /// Ranks looked at after them.
    #[arg(long, value_name = "N", default_value_t = MineOptions::default().window)]
    window: usize,
    /// A document that scores above this share of the answer's score counts as a false negative.
    #[arg(long, value_name = "SHARE", default_value_t = MineOptions::default().margin)]
    margin: f32,
    /// Negatives kept per pair.
    #[arg(long, value_name = "N", default_value_t = MineOptions::default().keep)]
    keep: usize,
    /// Where to compute: cpu, cpu:<threads>, or cuda:<number> (built with feature cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::name)]
    device: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    report: MineReport,
    files: Vec<PathBuf>,
}

pub(crate) async fn execute(args: MineArgs, app: &App) -> Result<()> {
    let (options, base_dir): (TrainOptions, _) =
        recipe::open(&args.recipe, &["student"], "distill")?;
    recipe::naming(&args.recipe, options.validate())?;
    let mining = MineOptions {
        skip: args.skip,
        window: args.window,
        margin: args.margin,
        keep: args.keep,
        seed: options.seed,
    };
    mining.validate()?;
    let encode = EncodeOptions { devices: vec![args.device.clone()], ..EncodeOptions::default() };
    let (reporter, cancel) = (&app.reporter, &app.cancel);
    let mut set = open_pairs(&options.pairs, &base_dir, options.seed, reporter, cancel).await?;
    keep_answered(&mut set, reporter)?;
    let documents: Vec<&str> = set.documents.iter().map(String::as_str).collect();
    let queries: Vec<&str> = set.pairs.iter().map(|pair| pair.query.as_str()).collect();
    let folder = args.out.join("vectors");
    let (queries, documents) = if args.teacher {
        let teacher = options.teacher.as_ref().ok_or_else(|| {
            Error::config(format!("{} names no [teacher]", args.recipe.display()))
        })?;
        let (texts, devices) = ([queries.clone(), documents.clone()], [args.device.parse()?]);
        let found = teacher::encode(teacher, &base_dir, texts, &folder, &devices, app).await?;
        (found.queries.unit(queries)?, found.documents.unit(documents)?)
    } else {
        let (mut query, mut document) = (options.query_tower(), options.tower.clone());
        if let Some(path) = &args.adapter {
            trained::put(path, &base_dir, &mut query, &mut document)?;
        }
        let vectors = async |tower: TowerOptions, texts: &[&str]| {
            let (reporter, cancel) = (&app.reporter, &app.cancel);
            exec::encode_texts(&tower, &base_dir, texts, &encode, &folder, reporter, cancel)
                .await
                .map(|(vectors, _)| vectors)
        };
        let documents = vectors(document, &documents).await?;
        (vectors(query, &queries).await?, documents)
    };
    let report = tokio::task::block_in_place(|| {
        let neighbours = Neighbours::build(&documents, &app.cancel)?;
        mine(&mut set, &queries, &documents, &neighbours.candidates(), &mining)
    })?;
    let mut files = Vec::new();
    for (at, source) in options.pairs.iter().enumerate() {
        let name = source.path.file_name().unwrap_or("pairs".as_ref()).to_string_lossy();
        let stem = name.split('.').next().unwrap_or("pairs");
        let path = args.out.join(format!("{at}-{stem}.jsonl"));
        write_pairs(&set, &report.scores, at as u32, &path)?;
        files.push(path);
    }
    app.answer(args.json, &Answer { report, files }, summary).context(unprinted(&args.out))
}

fn summary(answer: &Answer) -> String {
    let report = &answer.report;
    let mut text = format!(
        "{} of {} pairs have negatives, {} in all; {} candidates were refused as likely answers, {} as answers\n",
        report.with_negatives,
        report.pairs,
        report.negatives,
        report.refused_by_margin,
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
