//! Hard negatives: documents that the tower ranks high for a query and that do not answer it.

use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::dataset::{PairSet, SplitMix64};
use crate::error::{Error, Result, not_written};
use crate::kernel::dot;
use crate::store::named::{Existing, write_with};
use crate::train::faults::{Faults, refuse};
use crate::types::Embeddings;

/// How negatives are chosen among a query's neighbours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MineOptions {
    /// Ranks skipped from the top, known answers not counted: the likeliest false negatives.
    pub skip: usize,
    /// Ranks looked at after them.
    pub window: usize,
    /// A document that scores above this share of the query's own document counts as a false negative.
    pub margin: f32,
    /// Negatives kept per pair, drawn from what is left.
    pub keep: usize,
    /// Decides the draw.
    pub seed: u64,
}

impl MineOptions {
    /// Refuses numbers that would keep nothing, or filter nothing.
    ///
    /// # Errors
    /// Usage, naming every option.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Faults::default();
        let share = self.margin > 0.0 && self.margin <= 1.0;
        for (fine, key, said) in [
            (share, "margin", "must be above 0 and at most 1"),
            (self.window > 0, "window", "must be above 0"),
            (self.keep > 0, "keep", "must be above 0"),
        ] {
            faults.add(key, if fine { Ok(()) } else { Err(Error::usage(said)) });
        }
        refuse(&faults.0)
    }
}

impl Default for MineOptions {
    fn default() -> Self {
        Self { skip: 1, window: 50, margin: 0.95, keep: 4, seed: 0 }
    }
}

/// What mining did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MineReport {
    /// Pairs looked at.
    pub pairs: u64,
    /// Pairs that have at least one negative now.
    pub with_negatives: u64,
    /// Negatives kept in all.
    pub negatives: u64,
    /// Candidates refused by the margin.
    pub refused_by_margin: u64,
    /// Candidates refused because they answer the same query text.
    pub refused_as_answers: u64,
    /// What every pair's own document scores, in the order of the pairs.
    #[serde(skip)]
    pub scores: Vec<f32>,
}

/// The `k` nearest documents of a query vector, best first; see [`super::Neighbours`].
pub type Candidates<'a> = dyn Fn(&[f32], usize) -> Result<Vec<(u32, f32)>> + Sync + 'a;

/// Replaces the negatives of every pair. Row i of `queries` belongs to pair i, row j of `documents` to document j of
/// the set; both of unit length, from the tower as trained so far.
///
/// # Errors
/// Input, where rows and set do not fit; whatever `candidates` reports.
pub fn mine(
    set: &mut PairSet,
    queries: &Embeddings,
    documents: &Embeddings,
    candidates: &Candidates<'_>,
    options: &MineOptions,
) -> Result<MineReport> {
    if queries.len() != set.pairs.len() || documents.len() != set.documents.len() {
        return Err(Error::input(format!(
            "{} query and {} document vectors for {} pairs and {} documents",
            queries.len(),
            documents.len(),
            set.pairs.len(),
            set.documents.len()
        )));
    }
    let known: &PairSet = set;
    let mined = known
        .pairs
        .par_iter()
        .enumerate()
        .map(|(at, pair)| {
            let query = queries.row(at);
            let own = dot(query, documents.row(pair.document as usize));
            let answers = known.answers(&pair.query);
            let mut found = candidates(query, answers.len() + options.skip + options.window)?;
            let mut one = MineReport { pairs: 1, ..MineReport::default() };
            let before = found.len();
            found.retain(|(document, _)| !answers.contains(document));
            one.refused_as_answers = (before - found.len()) as u64;
            found.drain(..options.skip.min(found.len()));
            found.truncate(options.window);
            let looked_at = found.len();
            found.retain(|(_, score)| *score <= own * options.margin);
            one.refused_by_margin = (looked_at - found.len()) as u64;
            SplitMix64::new(options.seed ^ (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
                .shuffle(&mut found);
            found.truncate(options.keep);
            one.negatives = found.len() as u64;
            one.with_negatives = u64::from(!found.is_empty());
            Ok((found, own, one))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut report = MineReport::default();
    for (pair, (negatives, own, one)) in set.pairs.iter_mut().zip(mined) {
        pair.margins = negatives.iter().map(|(_, score)| score - own).collect();
        pair.negatives = negatives.into_iter().map(|(document, _)| document).collect();
        report.scores.push(own);
        report.pairs += one.pairs;
        report.with_negatives += one.with_negatives;
        report.negatives += one.negatives;
        report.refused_by_margin += one.refused_by_margin;
        report.refused_as_answers += one.refused_as_answers;
    }
    Ok(report)
}

/// Writes the pairs of one source as JSON Lines, negatives and what they and the document score included: a source for the
/// next round of training. `scores` are the report's.
pub fn write_pairs(set: &PairSet, scores: &[f32], source: u32, path: &Path) -> Result<()> {
    let written = write_with(path, Existing::Replace, |file| {
        for (pair, own) in set.pairs.iter().zip(scores).filter(|(pair, _)| pair.source == source) {
            let scores: Vec<f32> = pair.margins.iter().map(|margin| margin + own).collect();
            let negatives: Vec<&str> =
                pair.negatives.iter().map(|at| set.documents[*at as usize].as_str()).collect();
            let line = json!({
                "query": pair.query,
                "text": set.documents[pair.document as usize],
                "negatives": negatives,
                "score": own,
                "negative_scores": scores,
                "weight": pair.weight,
            });
            writeln!(file, "{line}")?;
        }
        Ok(())
    });
    written.map_err(|cause| not_written(path, cause))
}

#[cfg(test)]
mod tests {
    use super::super::Neighbours;
    use super::*;
    use crate::dataset::{Pair, PairSource};
    use crate::types::Cancel;

    #[test]
    fn neighbours_become_negatives_but_answers_and_near_duplicates_do_not() {
        let mut set = PairSet::default();
        // Documents on a quarter circle, 10 degrees apart; the query at 0 is answered by 0 and 2.
        for at in 0..9 {
            set.intern(format!("text {at}"));
        }
        for document in [0, 2] {
            set.push(Pair {
                query: if document == 0 { "q".into() } else { "Q?".into() },
                document,
                negatives: vec![],
                margins: vec![],
                weight: 1.0,
                source: 0,
            });
        }
        let at = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let documents =
            Embeddings::from_vec(2, (0..9).flat_map(|i| at(10.0 * i as f32)).collect()).unwrap();
        let queries = Embeddings::from_vec(2, [at(0.0), at(0.0)].concat()).unwrap();
        let options = MineOptions { skip: 0, window: 4, margin: 0.95, keep: 9, seed: 1 };
        let neighbours = Neighbours::build(&documents, &Cancel::new()).unwrap();
        let exact = neighbours.candidates();
        let report = mine(&mut set, &queries, &documents, &exact, &options).unwrap();
        // cos 10 = 0.985 lies above 0.95 of its own 1.0, cos 30 = 0.866 below.
        let mut first = set.pairs[0].negatives.clone();
        first.sort_unstable();
        assert_eq!(first, [3, 4, 5]);
        // For the second pair the own score is cos 20 = 0.940, so the limit is 0.893: again 3, 4, 5.
        assert_eq!((report.negatives, report.refused_by_margin), (6, 2));
        assert_eq!((report.refused_as_answers, report.with_negatives), (4, 2));

        let dir = tempfile::tempdir().unwrap();
        write_pairs(&set, &report.scores, 0, &dir.path().join("mined.jsonl")).unwrap();
        let again = PairSet::open(&[PairSource::new("mined.jsonl")], dir.path(), 0).unwrap();
        let texts = |set: &PairSet| -> Vec<Vec<String>> {
            let text = |n: &u32| set.documents[*n as usize].clone();
            set.pairs.iter().map(|p| p.negatives.iter().map(text).collect()).collect()
        };
        assert_eq!(texts(&set), texts(&again));
        for (pair, again) in set.pairs.iter().zip(&again.pairs) {
            let far = pair.margins.iter().zip(&again.margins).map(|(a, b)| (a - b).abs());
            assert!(again.margins.len() == 3 && far.fold(0.0, f32::max) < 1e-6);
            // cos 30 - cos 0 is the most of the first pair's.
            assert!(pair.margins.iter().all(|margin| *margin < -0.07), "{:?}", pair.margins);
        }
        // One rank skipped is one that does not answer.
        let skipping = MineOptions { skip: 1, window: 2, margin: 1.0, ..options };
        mine(&mut set, &queries, &documents, &exact, &skipping).unwrap();
        let mut first = set.pairs[0].negatives.clone();
        first.sort_unstable();
        assert_eq!(first, [3, 4], "1 is skipped; 0 and 2 answer");
        let short = Embeddings::from_vec(2, vec![1.0, 0.0]).unwrap();
        assert!(mine(&mut set, &short, &documents, &exact, &options).is_err());
    }
}
