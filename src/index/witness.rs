//! The usearch library as a second opinion on a file that this program wrote.
//!
//! Python readers open the file with that library. So before an index gets its receipt, the library
//! opens it and answers the canary queries, and must find what our own walk finds.

use std::path::Path;

use super::options::{IndexOptions, Quantization};
use super::quantize::{Calibration, Encoder, cosine_of};
use super::rows::{Hit, best_first};
use super::shard::ShardIndex;
use crate::error::{Error, Result, ResultExt};
use crate::types::Canary;

/// Hits that are compared for a query.
const HITS: usize = 10;
/// Scores may differ by this much: the library adds up in another order.
const TOLERANCE: f32 = 2e-3;
/// The share of queries that may be answered differently: a rounded distance sometimes changes a walk. A real fault
/// changes all of them.
const SPARE: usize = 4;

/// Asks the usearch library the canary queries of an index and compares with what a search without rescoring finds.
///
/// # Errors
/// Internal where it cannot open the file, or answers more than one query in four otherwise; as [`ShardIndex::open`].
pub fn check_with_usearch(
    index: &Path,
    sidecar: &Path,
    options: &IndexOptions,
    calibration: &Calibration,
    canaries: &[Canary],
) -> Result<()> {
    if canaries.is_empty() {
        return Ok(());
    }
    let mut plain = IndexOptions { rescore: 0, ..options.clone() };
    // The library knows nothing of rotations: a file of `b1r` is to it one of `b1` over vectors that were turned before.
    let mut turn = calibration.turn(options);
    if turn.is_some() {
        plain.quantization = Quantization::B1;
    }
    let shard = ShardIndex::open(index, sidecar, &plain, calibration)?;
    let witness = Witness::open(index, &plain, calibration)
        .map_err(refused)
        .context(|| format!("opening {} with usearch", index.display()))?;
    let mut wrong = Vec::new();
    for canary in canaries {
        let key = canary.key;
        let vector = shard.vector(key.0).ok_or_else(|| {
            Error::internal(format!("the canary of key {key} has no vector in its index"))
        })?;
        let asked = turn.as_mut().map_or(&*vector, |turn| turn.centred(&vector));
        let ours = shard.search_unit(asked, HITS, HITS, None)?;
        let theirs = witness.search(asked, HITS).map_err(refused)?;
        if let Some(what) = difference(&ours, &theirs) {
            wrong.push(format!("for the vector of key {key} {what}"));
        }
    }
    if wrong.len() <= canaries.len() / SPARE {
        return Ok(());
    }
    let (count, of) = (wrong.len(), canaries.len());
    Err(refused(format!("it answers {count} of {of} queries otherwise: {}", wrong.swap_remove(0))))
}

fn refused(what: String) -> Error {
    Error::internal(format!(
        "the usearch library does not confirm the new index: {what}; nothing was published: report it"
    ))
}

/// How the library's answer differs; equal scores may be in any order.
fn difference(ours: &[Hit], theirs: &[Hit]) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("it finds {} vectors, we {}", theirs.len(), ours.len()));
    }
    let apart = |(ours, theirs): (&Hit, &Hit)| {
        let near = (ours.score - theirs.score).abs() <= TOLERANCE;
        (!near).then(|| format!("it has score {:.4} where we have {:.4}", theirs.score, ours.score))
    };
    if let Some(what) = ours.iter().zip(theirs).find_map(apart) {
        return Some(what);
    }
    let last = ours.last()?.score;
    let known = |hit: &&Hit| ours.iter().any(|own| own.key == hit.key);
    let unknown = theirs.iter().filter(|hit| !known(hit)).find(|hit| hit.score > last + TOLERANCE);
    unknown.map(|hit| format!("it finds key {:016x}, which we do not", hit.key))
}

/// An index file, opened by the library.
struct Witness<'a> {
    view: usearch::Index,
    dimensions: usize,
    options: &'a IndexOptions,
    encoder: Encoder,
}

impl<'a> Witness<'a> {
    fn open(
        index: &Path,
        options: &'a IndexOptions,
        calibration: &Calibration,
    ) -> Result<Self, String> {
        let path = index.to_str().ok_or("its path is not UTF-8; set another TMPDIR")?;
        let view = usearch::Index::restore_view(path).map_err(|cause| cause.to_string())?;
        let (vectors, threads) = (view.size(), 1);
        view.reserve_capacity_and_threads(vectors, threads).map_err(|cause| cause.to_string())?;
        view.change_expansion_search(options.expansion_search);
        let dimensions = view.dimensions();
        Ok(Self { view, dimensions, options, encoder: Encoder::new(options, calibration) })
    }

    fn search(&self, unit: &[f32], count: usize) -> Result<Vec<Hit>, String> {
        let mut encoder = self.encoder.clone();
        let count = count.min(self.view.size());
        let found = encoder.encode(unit).search(&self.view, count, None::<fn(u64) -> bool>)?;
        let score = |distance| cosine_of(self.options.quantization, distance, self.dimensions);
        let (keys, distances) = found;
        let hits = keys.into_iter().zip(distances);
        let mut hits: Vec<Hit> =
            hits.map(|(key, distance)| Hit { key, score: score(distance) }).collect();
        hits.sort_unstable_by(best_first);
        Ok(hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(hits: &[(u64, f32)]) -> Vec<Hit> {
        hits.iter().map(|(key, score)| Hit { key: *key, score: *score }).collect()
    }

    #[test]
    fn equal_scores_may_change_places_and_others_may_not() {
        let ours = hits(&[(1, 0.9), (2, 0.8), (3, 0.7)]);
        assert_eq!(difference(&ours, &ours), None);
        assert_eq!(difference(&ours, &hits(&[(1, 0.9), (2, 0.8), (9, 0.7)])), None);
        for (theirs, what) in [
            (hits(&[(1, 0.9), (2, 0.8)]), "2 vectors, we 3"),
            (hits(&[(1, 0.9), (2, 0.8), (3, 0.6)]), "0.6000 where we have 0.7000"),
            (hits(&[(8, 0.9), (2, 0.8), (3, 0.7)]), "key 0000000000000008"),
            (hits(&[(1, f32::NAN), (2, 0.8), (3, 0.7)]), "NaN where we have 0.9000"),
        ] {
            let said = difference(&ours, &theirs).unwrap();
            assert!(said.contains(what), "{said}");
        }
    }
}
