//! `scalingnote distill --export`: the student, small enough to be shipped.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::long_run::unprinted;
use crate::cli::app::App;
use crate::dataset::{PairSet, SplitMix64};
use crate::error::{Error, Result, ResultExt};
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::train::{DistillOptions, PackOptions, Vocabulary, open_pairs, pack_student};
use crate::types::{Embeddings, Pooling};

/// Queries whose vectors before and after packing are compared.
const COMPARED: usize = 1000;

/// How the student is packed.
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// Bits of a weight in the layers, 2 to 8.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "export")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=8))]
    bits: u32,
    /// Bits of a weight in the table of token embeddings.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "export")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=8))]
    table_bits: u32,
    /// Keep only the N tokens that are most frequent in the recipe's pairs; others read as unknown. Default: all.
    #[arg(long, value_name = "N", requires = "export")]
    tokens: Option<usize>,
    /// Where the tokenizer comes from, for the message where it is missing (it is not copied).
    #[arg(long, value_name = "TEXT", requires = "export")]
    tokenizer_from: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    bytes: u64,
    /// Rows of the table kept and the share of the pairs' tokens that they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_kept: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share_kept: Option<f64>,
    queries: usize,
    mean_cosine: f64,
    least_cosine: f64,
}

/// Packs the student of the run in `output` into `target` and compares both on queries of the recipe.
pub(crate) async fn execute(
    args: &PackArgs,
    options: &DistillOptions,
    base_dir: &Path,
    (output, target): (&Path, &Path),
    json: bool,
    app: &App,
) -> Result<()> {
    let source = output.join("student");
    if !source.join("model.safetensors").is_file() {
        return Err(Error::not_found(format!(
            "there is no student in {}; distil to the end first",
            output.display()
        )));
    }
    let tokenizer = source.join("tokenizer.json");
    if !tokenizer.is_file() {
        return Err(Error::config(format!(
            "{} holds a cut LLM, whose table is too large to be shipped; only an encoder is packed",
            source.display()
        )));
    }
    let whole = resolve(&source, &tokenizer, options, app).await?;
    let pairs =
        open_pairs(&options.pairs, base_dir, options.seed, &app.reporter, &app.cancel).await?;
    let mut kept = None;
    if let Some(tokens) = args.tokens {
        let vocabulary = Vocabulary::read(&tokenizer)?;
        let counts = tokio::task::block_in_place(|| count(&whole, &pairs, app))?;
        let (keep, share) = vocabulary.keep(&counts, tokens);
        kept = Some((keep, vocabulary.unknown, share));
    }
    let packing = PackOptions {
        bits: args.bits,
        table_bits: args.table_bits,
        tokenizer_from: args.tokenizer_from.clone(),
        ..PackOptions::default()
    };
    let keep = kept.as_ref().map(|(keep, unknown, _)| (keep.as_slice(), *unknown));
    let bytes = pack_student(&source, target, &packing, keep, &tokenizer)?;
    let packed = resolve(target, &tokenizer, options, app).await?;
    let mut queries: Vec<&str> = pairs.pairs.iter().map(|pair| pair.query.trim()).collect();
    queries.retain(|query| !query.is_empty());
    SplitMix64::new(options.seed ^ 0x5041_434B).shuffle(&mut queries);
    queries.truncate(COMPARED);
    let cosines = tokio::task::block_in_place(|| -> Result<Vec<f64>> {
        let (before, after) = (encode(&whole, &queries)?, encode(&packed, &queries)?);
        let dot = |(a, b): (&[f32], &[f32])| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        Ok(before.rows().zip(after.rows()).map(dot).collect())
    })?;
    let answer = Answer {
        bytes,
        tokens_kept: kept.as_ref().map(|(keep, ..)| keep.iter().filter(|keep| **keep).count()),
        share_kept: kept.as_ref().map(|(.., share)| *share),
        queries: cosines.len(),
        mean_cosine: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
        least_cosine: cosines.iter().copied().fold(1.0, f64::min),
    };
    app.answer(json, &answer, |answer| summary(answer, target)).context(unprinted(target))
}

async fn resolve(
    model: &Path,
    tokenizer: &Path,
    options: &DistillOptions,
    app: &App,
) -> Result<Tower> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let tower = TowerOptions {
        tokenizer: Some(text(&std::path::absolute(tokenizer).unwrap_or(tokenizer.to_owned()))),
        max_tokens: Some(options.student.max_tokens()),
        ..TowerOptions::new(
            text(&std::path::absolute(model).unwrap_or(model.to_owned())),
            Pooling::Mean,
        )
    };
    Tower::resolve(&tower, Path::new("/"), &app.reporter).await
}

/// How often every token occurs in the pairs' queries and documents; queries that are there for distillation alone have an
/// empty one.
fn count(tower: &Tower, pairs: &PairSet, app: &App) -> Result<Vec<u64>> {
    let mut counts = Vec::new();
    let queries = pairs.pairs.iter().map(|pair| pair.query.as_str());
    let texts = queries.chain(pairs.documents.iter().map(String::as_str));
    for (at, text) in texts.filter(|text| !text.trim().is_empty()).enumerate() {
        if at.is_multiple_of(1000) {
            app.cancel.check()?;
        }
        for id in tower.tokenizer().tokenize(text)?.ids {
            let id = id as usize;
            if counts.len() <= id {
                counts.resize(id + 1, 0);
            }
            counts[id] += 1;
        }
    }
    Ok(counts)
}

fn encode(tower: &Tower, texts: &[&str]) -> Result<Embeddings> {
    let ids = texts
        .iter()
        .map(|text| Ok(tower.tokenizer().tokenize(text)?.ids))
        .collect::<Result<Vec<_>>>()?;
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    tower.load(&DeviceSpec::Cpu { threads: 0 })?.encode(&ids)
}

fn summary(answer: &Answer, target: &Path) -> String {
    let mut text =
        format!("packed into {:.1} MB: {}\n", answer.bytes as f64 / 1e6, target.display());
    if let (Some(tokens), Some(share)) = (answer.tokens_kept, answer.share_kept) {
        text += &format!("  {tokens} tokens kept, {:.2}% of those in the pairs\n", 100.0 * share);
    }
    text + &format!(
        "  cosine to the student before, over {} queries: mean {:.5}, least {:.5}\n",
        answer.queries, answer.mean_cosine, answer.least_cosine
    )
}
