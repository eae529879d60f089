//! Retrieval through our own index, as a snapshot serves it: what of the exact result is left.

use super::exact::exact_search;
use super::measures::{Measures, QueryMeasures, Ranking, Run};
use super::report::Evaluation;
use super::towers::{EvaluateOptions, depth_of, judge_set, ranking};
use crate::dataset::RetrievalSet;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::index::{self, IndexOptions, ShardIndex};
use crate::types::{Cancel, Embeddings};

/// How many results the measures at 10 are taken from: what a search asks for.
const SHORT: usize = 10;

/// Builds one index over the documents and judges its answers. Searches ask as a service would: for 10 results where
/// the measure looks at 10, for `options.depth` where it looks further, since a graph that is asked for more also finds
/// more. Also gives the share of the exact 10 nearest that it finds among its 10. Zero vectors are found by nobody.
///
/// # Errors
/// Input for vectors that are not finite; Resource about the disk; Cancelled.
pub fn evaluate_indexed(
    set: &RetrievalSet,
    system: &str,
    (queries, documents): (&Embeddings, &Embeddings),
    index: &IndexOptions,
    options: &EvaluateOptions,
    cancel: &Cancel,
) -> Result<(Evaluation, f64)> {
    let folder = tempfile::tempdir()
        .or_error(ErrorKind::Resource, || "making a folder for the index (set TMPDIR)")?;
    let (graph, sidecar) = (folder.path().join("graph"), folder.path().join("sidecar"));
    let keys: Vec<u64> = (0..documents.len() as u64)
        .filter(|key| documents.row(*key as usize).iter().any(|value| *value != 0.0))
        .collect();
    let rows = keys.iter().flat_map(|key| documents.row(*key as usize)).copied().collect();
    let rows = Embeddings::from_vec(documents.dimensions(), rows)?;
    let calibration = index::calibrate(&rows, index)?;
    index::build(&keys, &rows, index, &calibration, &graph, &sidecar, cancel, &|_| {})?;
    let shard = ShardIndex::open(&graph, &sidecar, index, &calibration)?;
    let exact = exact_search(queries, documents, depth_of(set, SHORT))?;
    let (mut short, mut long) = (Run::new(), Run::new());
    let (mut found, mut wanted) = (0, 0);
    for (at, query) in set.queries.iter().enumerate() {
        cancel.check()?;
        let search = |depth: usize| -> Result<Ranking> {
            let k = depth_of(set, depth).min(shard.len());
            let hits = shard.search(queries.row(at), k)?;
            let hits: Vec<_> = hits.into_iter().map(|hit| (hit.key as u32, hit.score)).collect();
            Ok(ranking(set, query, &hits, depth))
        };
        let nearest = search(SHORT)?;
        let exact = ranking(set, query, &exact[at], SHORT);
        wanted += exact.len();
        found += exact.iter().filter(|(own, _)| nearest.iter().any(|(hit, _)| hit == own)).count();
        short.insert(query.id.clone(), nearest);
        long.insert(query.id.clone(), search(options.depth)?);
    }
    let short = judge_set(set, system, options, &short);
    let mut evaluation = judge_set(set, system, options, &long);
    for (row, short) in evaluation.per_query.iter_mut().zip(&short.per_query) {
        let QueryMeasures { measures: near, .. } = short;
        row.measures = Measures {
            recall_100: row.measures.recall_100,
            recall_1000: row.measures.recall_1000,
            ..*near
        };
    }
    evaluation.mean = Measures::mean(evaluation.per_query.iter().map(|row| &row.measures));
    Ok((evaluation, found as f64 / wanted.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::super::towers::evaluate_embeddings;
    use super::*;
    use crate::dataset::SplitMix64;

    #[test]
    fn the_index_finds_nearly_what_exact_search_finds() {
        let line = |id: usize| format!("{{\"_id\":\"{id}\",\"text\":\"x\"}}");
        let set = RetrievalSet {
            documents: (0..600).map(|i| serde_json::from_str(&line(i)).unwrap()).collect(),
            queries: (0..40).map(|i| serde_json::from_str(&line(i)).unwrap()).collect(),
            qrels: (0..40).map(|i| (i.to_string(), [(i.to_string(), 1)].into())).collect(),
            ..RetrievalSet::default()
        };
        let mut rng = SplitMix64::new(5);
        let mut random =
            |rows: usize| -> Vec<f32> { (0..rows * 16).map(|_| rng.normal() as f32).collect() };
        let (documents, noise) = (random(600), random(40));
        let near: Vec<f32> =
            documents.iter().zip(&noise).map(|(value, noise)| value + 0.7 * noise).collect();
        let unit = |data: Vec<f32>| {
            let rows = data.chunks_exact(16).flat_map(|row| {
                let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.iter().map(move |v| v / length)
            });
            Embeddings::from_vec(16, rows.collect()).unwrap()
        };
        let mut last = documents[..599 * 16].to_vec();
        let queries = unit(near);
        last = unit(last).rows().flatten().copied().collect();
        // A document without a direction is found by nobody, and harms nobody.
        last.extend([0.0; 16]);
        let documents = Embeddings::from_vec(16, last).unwrap();
        let options = EvaluateOptions::new("s", "unused");
        let exact = evaluate_embeddings(&set, "x", &queries, &documents, &options).unwrap();
        let index = IndexOptions::default();
        let pair = (&queries, &documents);
        let (found, agreement) =
            evaluate_indexed(&set, "x", pair, &index, &options, &Cancel::new()).unwrap();
        assert!(agreement > 0.95 && agreement <= 1.0, "{agreement}");
        assert!((found.mean.ndcg_10 - exact.0.mean.ndcg_10).abs() < 0.02, "{found:?}");
        assert!(exact.0.mean.ndcg_10 > 0.5 && exact.0.mean.ndcg_10 < 0.999, "{exact:?}");
        assert!((found.mean.recall_1000 - 1.0).abs() < 1e-9);
        assert_eq!(found.per_query.len(), 40);
        // Queries and documents share their ids here: ignored, the one relevant document is gone from every ranking.
        let ignoring = RetrievalSet { ignore_identical_ids: true, ..set };
        let (gone, agreement) =
            evaluate_indexed(&ignoring, "x", pair, &index, &options, &Cancel::new()).unwrap();
        assert!(gone.ignore_identical_ids && agreement > 0.95, "{agreement}");
        assert_eq!((gone.mean, gone.queries), (Measures::default(), 40));
    }
}
