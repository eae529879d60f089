//! From texts to an evaluation: BM25, finished embeddings, or towers that encode on the spot.

use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bm25::{Bm25, Bm25Options};
use super::entropy::{EntropyOptions, contrastive_entropy};
use super::exact::exact_search;
use super::measures::Run;
use super::report::{Evaluation, judge};
use crate::dataset::{RetrievalSet, RetrievalSetOptions};
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::tower::{DeviceSpec, Encoder, Tower, pack};
use crate::types::{Cancel, Embeddings};

/// What is judged on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateOptions {
    /// The retrieval set.
    pub set: RetrievalSetOptions,
    /// Its name in tables.
    pub name: String,
    /// Documents ranked per query.
    #[serde(default = "default_depth")]
    pub depth: usize,
    /// Contrastive entropy.
    #[serde(default)]
    pub entropy: EntropyOptions,
    /// Tokens encoded together.
    #[serde(default = "default_token_budget")]
    pub token_budget: u32,
    /// Parameters of the BM25 row.
    #[serde(default)]
    pub bm25: Bm25Options,
}

fn default_depth() -> usize {
    1000
}

fn default_token_budget() -> u32 {
    4096
}

impl EvaluateOptions {
    /// A folder under its usual file names, everything else by default.
    pub fn new(name: impl Into<String>, path: impl Into<std::path::PathBuf>) -> Self {
        Self {
            set: RetrievalSetOptions::new(path),
            name: name.into(),
            depth: default_depth(),
            entropy: EntropyOptions::default(),
            token_budget: default_token_budget(),
            bm25: Bm25Options::default(),
        }
    }
}

/// BM25 on a set: title and text are one field.
pub fn evaluate_bm25(set: &RetrievalSet, options: &EvaluateOptions) -> Evaluation {
    let texts: Vec<String> = set.documents.iter().map(|d| d.render()).collect();
    let index = Bm25::new(texts.iter().map(String::as_str), options.bm25.clone());
    let run: Run = set
        .queries
        .iter()
        .filter(|query| set.qrels.contains_key(&query.id))
        .map(|query| {
            let found = index.search(&query.text, options.depth);
            (query.id.clone(), name_documents(set, &found))
        })
        .collect();
    judge(&options.name, "BM25", &set.qrels, &run)
}

/// Exact dot-product retrieval over finished embeddings, whose rows follow the set's documents and queries.
///
/// # Errors
/// Input, where numbers of rows or dimensions do not fit the set.
pub fn evaluate_embeddings(
    set: &RetrievalSet,
    system: &str,
    queries: &Embeddings,
    documents: &Embeddings,
    options: &EvaluateOptions,
) -> Result<Evaluation> {
    if (queries.len(), documents.len()) != (set.queries.len(), set.documents.len()) {
        return Err(Error::input(format!(
            "{} query and {} document vectors for a set of {} queries and {} documents",
            queries.len(),
            documents.len(),
            set.queries.len(),
            set.documents.len()
        )));
    }
    let found = exact_search(queries, documents, options.depth)?;
    let run: Run = set
        .queries
        .iter()
        .zip(&found)
        .map(|(query, found)| (query.id.clone(), name_documents(set, found)))
        .collect();
    let mut evaluation = judge(&options.name, system, &set.qrels, &run);
    evaluation.contrastive_entropy =
        Some(contrastive_entropy(set, queries, documents, &options.entropy)?);
    Ok(evaluation)
}

fn name_documents(set: &RetrievalSet, found: &[(u32, f32)]) -> Vec<(String, f32)> {
    found.iter().map(|(at, score)| (set.documents[*at as usize].id.clone(), *score)).collect()
}

/// A query tower and a document tower of one embedding space, and where they run.
pub struct TowerPair<'a> {
    /// Encodes queries.
    pub query: &'a Tower,
    /// Encodes documents; may be the same tower.
    pub document: &'a Tower,
    /// Where both run, one after the other.
    pub device: DeviceSpec,
}

/// What [`evaluate_towers`] found.
pub struct TowerRun {
    /// The scores.
    pub evaluation: Evaluation,
    /// `[queries, dimensions]`.
    pub queries: Embeddings,
    /// `[documents, dimensions]`.
    pub documents: Embeddings,
    /// Documents encoded per second.
    pub documents_per_second: f64,
    /// Seconds one query takes alone, median over up to 50 of them.
    pub query_seconds: f64,
}

/// Encodes queries with one tower and documents with another (they may be the same), then judges exact retrieval.
/// Only queries with a judgement are encoded; `set` loses the others.
pub fn evaluate_towers(
    set: &mut RetrievalSet,
    system: &str,
    towers: &TowerPair<'_>,
    options: &EvaluateOptions,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TowerRun> {
    let RetrievalSet { queries, qrels, .. } = set;
    queries.retain(|query| qrels.contains_key(&query.id));
    let started = Instant::now();
    let total = (set.queries.len() + set.documents.len()) as u64;
    let texts: Vec<String> = set.documents.iter().map(|d| d.render()).collect();
    let documents = Tokens::of(towers.document, texts.iter().map(String::as_str))?;
    let queries = Tokens::of(towers.query, set.queries.iter().map(|query| query.text.as_str()))?;
    reporter.event(Event::StageStarted {
        stage: Stage::Evaluate,
        total,
        unit: "texts",
        tokens: documents.total() + queries.total(),
    });
    let mut progress = Progress { reporter, done: 0, tokens: 0 };
    let documents = {
        let mut encoder = towers.document.load(&towers.device)?;
        encode(towers.document, encoder.as_mut(), &documents, options, &mut progress, cancel)?
    };
    let documents_per_second = documents.len() as f64 / started.elapsed().as_secs_f64().max(1e-9);
    let mut encoder = towers.query.load(&towers.device)?;
    let queries = encode(towers.query, encoder.as_mut(), &queries, options, &mut progress, cancel)?;
    let mut times = Vec::new();
    for query in set.queries.iter().take(50) {
        let start = Instant::now();
        let ids = towers.query.tokenizer().tokenize(&query.text)?.ids;
        encoder.encode(&[&ids])?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_unstable_by(f64::total_cmp);
    let evaluation = evaluate_embeddings(set, system, &queries, &documents, options)?;
    reporter.event(Event::StageFinished {
        stage: Stage::Evaluate,
        seconds: started.elapsed().as_secs_f64(),
        summary: format!("{system} on {}: nDCG@10 {:.4}", options.name, evaluation.mean.ndcg_10),
    });
    Ok(TowerRun {
        evaluation,
        queries,
        documents,
        documents_per_second,
        query_seconds: times.get(times.len() / 2).copied().unwrap_or(0.0),
    })
}

struct Progress<'a> {
    reporter: &'a Arc<dyn Reporter>,
    done: u64,
    tokens: u64,
}

/// Texts as a tower takes them, in their order.
struct Tokens(Vec<Vec<u32>>);

impl Tokens {
    fn of<'a>(tower: &Tower, texts: impl Iterator<Item = &'a str>) -> Result<Self> {
        texts.map(|text| Ok(tower.tokenizer().tokenize(text)?.ids)).collect::<Result<_>>().map(Self)
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|ids| ids.len() as u64).sum()
    }
}

fn encode(
    tower: &Tower,
    encoder: &mut dyn Encoder,
    Tokens(ids): &Tokens,
    options: &EvaluateOptions,
    progress: &mut Progress<'_>,
    cancel: &Cancel,
) -> Result<Embeddings> {
    let lengths: Vec<u32> = ids.iter().map(|ids| ids.len() as u32).collect();
    let dimensions = tower.dimensions() as usize;
    let mut data = vec![0f32; ids.len() * dimensions];
    for batch in pack(&lengths, options.token_budget) {
        cancel.check()?;
        let sequences: Vec<&[u32]> = batch.iter().map(|at| ids[*at].as_slice()).collect();
        let vectors = encoder.encode(&sequences)?;
        for (row, &at) in vectors.rows().zip(&batch) {
            data[at * dimensions..(at + 1) * dimensions].copy_from_slice(row);
        }
        progress.done += batch.len() as u64;
        progress.tokens += batch.iter().map(|at| u64::from(lengths[*at])).sum::<u64>();
        progress.reporter.event(Event::Progress {
            stage: Stage::Evaluate,
            done: progress.done,
            tokens: progress.tokens,
        });
    }
    Embeddings::from_vec(dimensions, data)
}
