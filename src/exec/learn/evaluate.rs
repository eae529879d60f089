//! Judging the towers of a file on a retrieval set.

use serde::{Deserialize, Serialize};

use super::LearnContext;
use crate::dataset::{Oddities, RetrievalSet};
use crate::error::{Error, Result, ResultExt};
use crate::evaluate::{
    BootstrapOptions, Comparison, EvaluateOptions, Evaluation, Latency, Run, check_same_queries,
    compare, evaluate_bm25, evaluate_embeddings, evaluate_indexed, query_latency,
};
use crate::index::IndexOptions;
use crate::tower::{Tower, TowerOptions};
use crate::types::{Embeddings, computing};

/// What is judged, on what.
pub struct EvaluateRequest {
    /// The set and how its measures are taken.
    pub options: EvaluateOptions,
    /// Refuse a set with judgements of what is missing, or with lines that repeat others.
    pub strict: bool,
    /// The system's name in tables.
    pub system: String,
    /// The tower of the queries.
    pub query: TowerOptions,
    /// The tower of the documents.
    pub document: TowerOptions,
    /// Also judges what an index built so finds.
    pub index: Option<IndexOptions>,
    /// Also times single queries on one thread.
    pub latency: bool,
    /// Earlier rows on the same set, to compare with.
    pub earlier: Vec<Evaluation>,
}

/// How good towers are on a set.
#[derive(Serialize, Deserialize)]
pub struct Judged {
    /// The towers searched exactly, then through the index if asked for, then BM25.
    pub rows: Vec<Evaluation>,
    /// Share of the exact 10 nearest that the index finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_recall_10: Option<f64>,
    /// The query tower, then the document tower.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<Latency>,
    /// With BM25, then with the earlier rows.
    pub comparisons: Vec<Versus>,
    /// What the set should not have and was read without.
    #[serde(default, skip_serializing_if = "Oddities::is_empty")]
    pub oddities: Oddities,
    /// The ranked lists of the towers searched exactly.
    #[serde(skip)]
    pub run: Run,
}

/// How much better the second system is than the first.
#[derive(Serialize, Deserialize)]
pub struct Versus {
    /// The first's name.
    pub first: String,
    /// The second's.
    pub second: String,
    /// By measure.
    pub measures: Vec<Comparison>,
}

/// Encodes the documents and judged queries of a set, searches exactly, and measures. Vectors are kept in the context's
/// folder, by embedding space, and used again wherever the tower is the same.
///
/// # Errors
/// Those of [`RetrievalSet::open`]; Input where nothing can be measured, or where an earlier row is of other queries;
/// those of resolving towers, encoding and building an index; Cancelled.
pub async fn evaluate(request: EvaluateRequest, context: &LearnContext) -> Result<Judged> {
    let EvaluateRequest { options, system, earlier, .. } = &request;
    let set = open(options, request.strict)?;
    for line in set.oddities.lines() {
        context.reporter.warn(format!("{}: {line}", options.set.path.display()));
    }
    let (base_dir, reporter) = (&context.base_dir, &context.reporter);
    let resolve = async |tower: &TowerOptions| Tower::resolve(tower, base_dir, reporter).await;
    let document = resolve(&request.document).await?;
    let query = match request.query == request.document {
        true => document.clone(),
        false => resolve(&request.query).await?,
    };
    document.admits(&query)?;
    let bm25 = computing(|| evaluate_bm25(&set, options));
    for other in earlier {
        check_same_queries(other, &bm25)?;
    }
    let texts: Vec<String> = set.documents.iter().map(|document| document.render()).collect();
    let borrowed = texts.iter().map(String::as_str).collect::<Vec<_>>();
    let documents = vectors(&request.document, &borrowed, context).await?;
    let texts = set.queries.iter().map(|query| query.text.as_str()).collect::<Vec<_>>();
    let queries = vectors(&request.query, &texts, context).await?;
    computing(|| {
        let (tower, run) = evaluate_embeddings(&set, system, &queries, &documents, options)?;
        let mut comparisons = vec![versus(&bm25, &tower)?];
        for other in earlier {
            comparisons.push(versus(other, &tower)?);
        }
        let (mut rows, mut index_recall_10) = (vec![tower], None);
        if let Some(index) = &request.index {
            let (name, pair) = (format!("{system} (index)"), (&queries, &documents));
            let cancel = &context.cancel;
            let (row, recall) = evaluate_indexed(&set, &name, pair, index, options, cancel)?;
            rows.push(row);
            index_recall_10 = Some(recall);
        }
        rows.push(bm25);
        let latency = match request.latency {
            true => latency(&set, &query, &document, context)?,
            false => Vec::new(),
        };
        Ok(Judged { rows, index_recall_10, latency, comparisons, oddities: set.oddities, run })
    })
}

/// The set, with only those queries that are judged.
fn open(options: &EvaluateOptions, strict: bool) -> Result<RetrievalSet> {
    let folder = &options.set.path;
    if !folder.is_dir() {
        return Err(Error::not_found(format!(
            "there is no folder {}; name one with corpus.jsonl, queries.jsonl and qrels.tsv",
            folder.display()
        )));
    }
    let mut set = RetrievalSet::open(&options.set)?;
    if strict {
        set.oddities.refuse().context(|| folder.display().to_string())?;
    }
    let positions = set.positions();
    let mut judged = set.qrels.values().flatten();
    if !judged.any(|(id, grade)| *grade > 0 && positions.contains_key(id.as_str())) {
        let why = set.oddities.lines().iter().map(|line| format!("; {line}")).collect::<String>();
        return Err(Error::input(format!(
            "{} judges no document that is there as relevant: nothing can be measured{why}",
            folder.display()
        )));
    }
    set.keep_judged();
    Ok(set)
}

/// Vectors of texts; an empty text has the zero vector, which nothing is near to.
async fn vectors(
    tower: &TowerOptions,
    texts: &[&str],
    context: &LearnContext,
) -> Result<Embeddings> {
    let kept: Vec<usize> = (0..texts.len()).filter(|at| !texts[*at].trim().is_empty()).collect();
    let full: Vec<&str> = kept.iter().map(|at| texts[*at]).collect();
    let (found, _) = context.encode(tower, &full, "").await?;
    if kept.len() == texts.len() {
        return Ok(found);
    }
    let dimensions = found.dimensions();
    let mut data = vec![0.0; texts.len() * dimensions];
    for (row, at) in found.rows().zip(kept) {
        data[at * dimensions..(at + 1) * dimensions].copy_from_slice(row);
    }
    Embeddings::from_vec(dimensions, data)
}

/// Up to 200 queries through the query tower and, where that is another, through the document tower.
fn latency(
    set: &RetrievalSet,
    query: &Tower,
    document: &Tower,
    context: &LearnContext,
) -> Result<Vec<Latency>> {
    let mut towers = vec![("query tower", query)];
    let same = query.weights_digest() == document.weights_digest();
    if !(same && query.options().layers == document.options().layers) {
        towers.push(("document tower", document));
    }
    let texts = set.queries.iter().map(|query| query.text.trim());
    let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).take(200).collect();
    query_latency(&towers, &texts, &context.cancel)
}

fn versus(first: &Evaluation, second: &Evaluation) -> Result<Versus> {
    let measures = compare(first, second, &BootstrapOptions::default())?;
    Ok(Versus { first: first.system.clone(), second: second.system.clone(), measures })
}
