//! BM25 in memory: a row that is in every table, so that figures have a scale.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::analyse::analyse_english;
use super::exact::{best_first, keep_best};

/// Parameters of BM25; the defaults are those of Anserini's baselines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bm25Options {
    /// Saturation of term frequency.
    pub k1: f32,
    /// Weight of document length.
    pub b: f32,
}

impl Default for Bm25Options {
    fn default() -> Self {
        Self { k1: 0.9, b: 0.4 }
    }
}

/// An inverted index over English texts.
pub struct Bm25 {
    options: Bm25Options,
    /// Term -> (document, frequency), in document order.
    postings: HashMap<String, Vec<(u32, u32)>>,
    lengths: Vec<u32>,
    mean_length: f32,
}

impl Bm25 {
    /// Indexes texts; a document's number is its position.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>, options: Bm25Options) -> Self {
        let mut postings: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
        let mut lengths = Vec::new();
        for text in texts {
            let document = lengths.len() as u32;
            let terms = analyse_english(text);
            lengths.push(terms.len() as u32);
            for term in terms {
                let list = postings.entry(term).or_default();
                match list.last_mut() {
                    Some((last, count)) if *last == document => *count += 1,
                    _ => list.push((document, 1)),
                }
            }
        }
        let total: u64 = lengths.iter().map(|l| u64::from(*l)).sum();
        let mean_length = total as f32 / lengths.len().max(1) as f32;
        Self { options, postings, lengths, mean_length }
    }

    /// The best `k` documents that share a term with the query, best first; equal scores by number.
    pub fn search(&self, query: &str, k: usize) -> Vec<(u32, f32)> {
        let Bm25Options { k1, b } = self.options;
        let n = self.lengths.len() as f32;
        let mut scores: HashMap<u32, f32> = HashMap::new();
        for term in analyse_english(query) {
            let Some(list) = self.postings.get(&term) else { continue };
            let df = list.len() as f32;
            let idf = (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
            for &(document, count) in list {
                let tf = count as f32;
                let length = self.lengths[document as usize] as f32 / self.mean_length;
                *scores.entry(document).or_default() +=
                    idf * tf / (tf + k1 * (1.0 - b + b * length));
            }
        }
        let mut best: Vec<(u32, f32)> = scores.into_iter().collect();
        keep_best(&mut best, k);
        best.sort_unstable_by(best_first);
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_terms_and_short_documents_win() {
        let texts = ["beer beer ale", "beer with much foam and a long tail of words", "coffee"];
        let index = Bm25::new(texts, Bm25Options::default());
        let found = index.search("Beers", 10);
        assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1]);
        // idf = ln(1 + 1.5/2.5), tf part = 2 / (2 + 0.9 (0.6 + 0.4 * 3 / mean)); lengths 3, 6, 1.
        let expected = 1.6f32.ln() * 2.0 / (2.0 + 0.9 * (0.6 + 0.4 * 3.0 / (10.0 / 3.0)));
        assert!((found[0].1 - expected).abs() < 1e-6, "{} {expected}", found[0].1);
        assert!(index.search("tea", 10).is_empty());
    }
}
