//! Contrastive entropy: the continuous measure on which scaling laws of dense retrieval are fitted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dataset::{RetrievalSet, SplitMix64};
use crate::error::{Error, Result};
use crate::kernel::dot;
use crate::types::Embeddings;

/// How contrastive entropy is taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EntropyOptions {
    /// Random documents beside each relevant one.
    pub negatives: usize,
    /// Scores are divided by it.
    pub temperature: f64,
    /// Decides which documents are drawn.
    pub seed: u64,
}

impl Default for EntropyOptions {
    fn default() -> Self {
        Self { negatives: 256, temperature: 0.02, seed: 42 }
    }
}

/// The mean over all relevant pairs of `-ln(exp(s+/t) / (exp(s+/t) + sum exp(s-/t)))` with `negatives` documents
/// drawn for each pair among the candidates not judged relevant to its query (Fang et al. 2024). In nats; lower is
/// better; `ln(negatives + 1)` is chance. `None` where there is no such pair. Rows of `queries` and `documents` follow the
/// set's order.
pub fn contrastive_entropy(
    set: &RetrievalSet,
    queries: &Embeddings,
    documents: &Embeddings,
    options: &EntropyOptions,
) -> Result<Option<f64>> {
    if !(options.temperature.is_finite() && options.temperature > 0.0) {
        return Err(Error::config("entropy.temperature must be above 0"));
    }
    let positions = set.positions();
    let mut rng = SplitMix64::new(options.seed);
    let (mut sum, mut pairs) = (0.0, 0u64);
    for (at, query) in set.queries.iter().enumerate() {
        let Some(judged) = set.qrels.get(&query.id) else { continue };
        let candidate =
            |id: &str| positions.get(id).copied().filter(|_| set.is_candidate(query, id));
        let relevant = judged.iter().filter(|(_, grade)| **grade > 0);
        let relevant: Vec<usize> = relevant.filter_map(|(id, _)| candidate(id)).collect();
        // Never drawn as negatives: what is relevant, and what is not a candidate.
        let own = positions.get(query.id.as_str()).filter(|_| candidate(&query.id).is_none());
        let excluded: Vec<usize> = relevant.iter().chain(own).copied().collect();
        let score = |document: usize| {
            f64::from(dot(queries.row(at), documents.row(document))) / options.temperature
        };
        for &positive in &relevant {
            let own = score(positive);
            let mut scores = vec![own];
            // A set whose documents are all relevant has no negative to draw; the sum is then 0.
            while scores.len() <= options.negatives && excluded.len() < set.documents.len() {
                let drawn = rng.below(set.documents.len());
                if !excluded.contains(&drawn) {
                    scores.push(score(drawn));
                }
            }
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            sum += largest + total.ln() - own;
            pairs += 1;
        }
    }
    Ok((pairs > 0).then(|| sum / pairs as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_give_chance_and_a_perfect_tower_gives_none() {
        let line = |id: usize| format!("{{\"_id\":\"{id}\",\"text\":\"x\"}}");
        let parse = |n| (0..n).map(|i| serde_json::from_str(&line(i)).unwrap()).collect();
        let set = RetrievalSet {
            documents: parse(20),
            queries: (0..3).map(|i| serde_json::from_str(&line(i)).unwrap()).collect(),
            qrels: (0..3)
                .map(|i| (i.to_string(), [(i.to_string(), 1), ("gone".to_owned(), 1)].into()))
                .collect(),
            ..RetrievalSet::default()
        };
        let options = EntropyOptions { negatives: 9, ..EntropyOptions::default() };
        let same = |rows| Embeddings::from_vec(1, vec![1.0; rows]).unwrap();
        let entropy = |set: &RetrievalSet, queries: &Embeddings, documents: &Embeddings| {
            contrastive_entropy(set, queries, documents, &options).unwrap()
        };
        let chance = entropy(&set, &same(3), &same(20)).unwrap();
        assert!((chance - 10f64.ln()).abs() < 1e-9, "{chance}");
        let unit = |rows: usize| {
            let data = (0..rows * 20).map(|i| f32::from(u8::from(i / 20 == i % 20))).collect();
            Embeddings::from_vec(20, data).unwrap()
        };
        assert!(entropy(&set, &unit(3), &unit(20)).unwrap() < 1e-9);
        // Without the documents of their own ids the queries have no other relevant one: there is no pair.
        let ignoring = RetrievalSet { ignore_identical_ids: true, ..set };
        assert_eq!(entropy(&ignoring, &same(3), &same(20)), None);
    }
}
