//! From texts or embeddings to an evaluation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bm25::{Bm25, Bm25Options};
use super::entropy::{EntropyOptions, contrastive_entropy};
use super::exact::exact_search;
use super::measures::{Ranking, Run};
use super::report::{Evaluation, judge};
use crate::dataset::{Query, RetrievalSet, RetrievalSetOptions};
use crate::error::{Error, Result};
use crate::types::Embeddings;

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
    /// Parameters of the BM25 row.
    #[serde(default)]
    pub bm25: Bm25Options,
}

fn default_depth() -> usize {
    1000
}

impl EvaluateOptions {
    /// A folder under its usual file names, everything else by default.
    pub fn new(name: impl Into<String>, path: impl Into<std::path::PathBuf>) -> Self {
        Self {
            set: RetrievalSetOptions::new(path),
            name: name.into(),
            depth: default_depth(),
            entropy: EntropyOptions::default(),
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
            let found = index.search(&query.text, depth_of(set, options.depth));
            (query.id.clone(), ranking(set, query, &found, options.depth))
        })
        .collect();
    judge_set(set, "BM25", options, &run)
}

/// Exact dot-product retrieval over embeddings, whose rows follow the set's documents and queries; also gives the
/// ranked lists.
///
/// # Errors
/// Input, where numbers of rows or dimensions do not fit the set.
pub fn evaluate_embeddings(
    set: &RetrievalSet,
    system: &str,
    queries: &Embeddings,
    documents: &Embeddings,
    options: &EvaluateOptions,
) -> Result<(Evaluation, Run)> {
    if (queries.len(), documents.len()) != (set.queries.len(), set.documents.len()) {
        return Err(Error::input(format!(
            "{} query and {} document vectors for a set of {} queries and {} documents",
            queries.len(),
            documents.len(),
            set.queries.len(),
            set.documents.len()
        )));
    }
    let found = exact_search(queries, documents, depth_of(set, options.depth))?;
    let run: Run = set
        .queries
        .iter()
        .zip(&found)
        .map(|(query, found)| (query.id.clone(), ranking(set, query, found, options.depth)))
        .collect();
    let mut evaluation = judge_set(set, system, options, &run);
    evaluation.contrastive_entropy =
        contrastive_entropy(set, queries, documents, &options.entropy)?;
    Ok((evaluation, run))
}

/// How many documents to search for so that `depth` are left of them.
pub(super) fn depth_of(set: &RetrievalSet, depth: usize) -> usize {
    depth + usize::from(set.ignore_identical_ids)
}

/// The first `depth` candidates of what was found for a query, best first, by their ids.
pub(super) fn ranking(
    set: &RetrievalSet,
    query: &Query,
    found: &[(u32, f32)],
    depth: usize,
) -> Ranking {
    let named = found.iter().map(|(at, score)| (&set.documents[*at as usize].id, *score));
    let candidates = named.filter(|(id, _)| set.is_candidate(query, id));
    candidates.take(depth).map(|(id, score)| (id.clone(), score)).collect()
}

pub(super) fn judge_set(
    set: &RetrievalSet,
    system: &str,
    options: &EvaluateOptions,
    run: &Run,
) -> Evaluation {
    let ignore_identical_ids = set.ignore_identical_ids;
    Evaluation { ignore_identical_ids, ..judge(&options.name, system, &set.qrels, run) }
}
