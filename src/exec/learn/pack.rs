//! The student, small enough to be shipped.

use std::path::Path;

use serde::Serialize;

use super::LearnContext;
use crate::dataset::{PairSet, SplitMix64};
use crate::error::{Error, Result};
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::train::{DistillOptions, PackOptions, Vocabulary, open_pairs, pack_student};
use crate::types::{Embeddings, Pooling, computing};

/// Queries whose vectors before and after packing are compared.
const COMPARED: usize = 1000;

/// How the student is packed.
pub struct PackRequest {
    /// Bits of its weights.
    pub packing: PackOptions,
    /// Only so many tokens are kept, those most frequent in the recipe's pairs; others read as unknown. None: all.
    pub tokens: Option<usize>,
}

/// The packed student beside the whole one.
#[derive(Debug, Serialize)]
pub struct Packed {
    /// Size of its weights.
    pub bytes: u64,
    /// Rows of the table of tokens kept, where some were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_kept: Option<usize>,
    /// Share of the pairs' tokens that they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_kept: Option<f64>,
    /// Queries compared.
    pub queries: usize,
    /// Mean cosine of the vectors before and after.
    pub mean_cosine: f64,
    /// The least.
    pub least_cosine: f64,
}

/// Packs the student that [`super::distill`] left in the context's folder into `target`, and compares both on queries of
/// the recipe.
///
/// # Errors
/// NotFound before distillation has finished; Config if the student is not an encoder; those of reading and writing.
pub async fn pack(
    options: &DistillOptions,
    request: PackRequest,
    context: &LearnContext,
    target: &Path,
) -> Result<Packed> {
    let LearnContext { base_dir, folder: output, reporter, cancel, .. } = context;
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
    let whole = resolve(&source, &tokenizer, options, context).await?;
    let pairs = open_pairs(&options.pairs, base_dir, options.seed, reporter, cancel).await?;
    let mut kept = None;
    if let Some(tokens) = request.tokens {
        let vocabulary = Vocabulary::read(&tokenizer)?;
        let counts = computing(|| count(&whole, &pairs, context))?;
        let (keep, share) = vocabulary.keep(&counts, tokens);
        kept = Some((keep, vocabulary.unknown, share));
    }
    let keep = kept.as_ref().map(|(keep, unknown, _)| (keep.as_slice(), *unknown));
    let bytes = pack_student(&source, target, &request.packing, keep, &tokenizer)?;
    let packed = resolve(target, &tokenizer, options, context).await?;
    let mut queries: Vec<&str> = pairs.pairs.iter().map(|pair| pair.query.trim()).collect();
    queries.retain(|query| !query.is_empty());
    SplitMix64::new(options.seed ^ 0x5041_434B).shuffle(&mut queries);
    queries.truncate(COMPARED);
    let cosines = computing(|| -> Result<Vec<f64>> {
        let (before, after) = (encode(&whole, &queries)?, encode(&packed, &queries)?);
        let dot = |(a, b): (&[f32], &[f32])| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        Ok(before.rows().zip(after.rows()).map(dot).collect())
    })?;
    Ok(Packed {
        bytes,
        tokens_kept: kept.as_ref().map(|(keep, ..)| keep.iter().filter(|keep| **keep).count()),
        share_kept: kept.as_ref().map(|(.., share)| *share),
        queries: cosines.len(),
        mean_cosine: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
        least_cosine: cosines.iter().copied().fold(1.0, f64::min),
    })
}

async fn resolve(
    model: &Path,
    tokenizer: &Path,
    options: &DistillOptions,
    context: &LearnContext,
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
    Tower::resolve(&tower, Path::new("/"), &context.reporter).await
}

/// How often every token occurs in the pairs' queries and documents; queries that are there for distillation alone have an
/// empty one.
fn count(tower: &Tower, pairs: &PairSet, context: &LearnContext) -> Result<Vec<u64>> {
    let mut counts = Vec::new();
    let queries = pairs.pairs.iter().map(|pair| pair.query.as_str());
    let texts = queries.chain(pairs.documents.iter().map(String::as_str));
    for (at, text) in texts.filter(|text| !text.trim().is_empty()).enumerate() {
        if at.is_multiple_of(1000) {
            context.cancel.check()?;
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
