//! Canary queries of one shard: recorded when the index is built, asked again before it is served.
//!
//! Hashes prove the bytes. Canaries prove what comes out of them: another usearch, another processor's kernels, a
//! wrong scale, a sidecar of another build under the same keys, a reader with a bug all change the answers first.

use super::rows::Hit;
use super::shard::ShardIndex;
use crate::error::{Error, Result};
use crate::types::{Canary, CanaryHit, HexKey, mix};

/// Queries recorded for a shard.
const QUERIES: usize = 4;
/// Hits recorded for a query.
const HITS: usize = 5;
/// Scores may differ by this much: f16 rounding, and the four digits of the record.
const TOLERANCE: f64 = 2e-3;
/// The share of canaries that may answer differently: another processor may round a border of the walk differently. A
/// real fault changes all of them.
const SPARE: usize = 4;

/// Records the canaries of an index that was just built: the stored vectors whose mixed keys are smallest, so that
/// another note more or less hardly changes which.
///
/// # Errors
/// As [`ShardIndex::search`].
pub fn record_canaries(shard: &ShardIndex) -> Result<Vec<Canary>> {
    let mut keys: Vec<u64> = shard.keys().to_vec();
    let count = QUERIES.min(keys.len());
    if count < keys.len() {
        keys.select_nth_unstable_by_key(count, |key| mix(*key));
        keys.truncate(count);
    }
    keys.sort_unstable_by_key(|key| mix(*key));
    let record = |key: u64| -> Result<Canary> {
        let hits = ask(shard, key, HITS)?;
        let hit = |hit: &Hit| CanaryHit { key: HexKey(hit.key), score: rounded(hit.score) };
        Ok(Canary { key: HexKey(key), hits: hits.iter().map(hit).collect() })
    };
    keys.into_iter().map(record).collect()
}

/// Asks the canaries again.
///
/// # Errors
/// Corrupt where more than one in four answers otherwise than recorded.
pub fn check_canaries(shard: &ShardIndex, canaries: &[Canary]) -> Result<()> {
    let mut wrong = Vec::new();
    for canary in canaries {
        if let Some(what) = difference(shard, canary)? {
            wrong.push(format!("the canary of key {} {what}", canary.key));
        }
    }
    if wrong.len() <= canaries.len() / SPARE {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{} of {} canary queries answer otherwise than when the index was built: {}",
        wrong.len(),
        canaries.len(),
        wrong.swap_remove(0)
    )))
}

fn ask(shard: &ShardIndex, key: u64, hits: usize) -> Result<Vec<Hit>> {
    match shard.vector(key) {
        Some(vector) => shard.search(&vector, hits),
        None => Ok(Vec::new()),
    }
}

/// How the answer differs; equal scores may be in any order.
fn difference(shard: &ShardIndex, canary: &Canary) -> Result<Option<String>> {
    let found = ask(shard, canary.key.0, canary.hits.len())?;
    if found.len() != canary.hits.len() {
        return Ok(Some(format!("has {} of {} hits", found.len(), canary.hits.len())));
    }
    let Some(last) = canary.hits.last().map(|hit| hit.score) else { return Ok(None) };
    for (rank, (hit, expected)) in found.iter().zip(&canary.hits).enumerate() {
        let score = f64::from(hit.score);
        if (score - expected.score).abs() > TOLERANCE || score.is_nan() {
            let rank = rank + 1;
            return Ok(Some(format!(
                "has score {score:.4} at rank {rank}, {} was recorded",
                expected.score
            )));
        }
    }
    let known = |key: u64| canary.hits.iter().any(|hit| hit.key.0 == key);
    let unknown = found
        .iter()
        .find(|hit| !known(hit.key) && f64::from(hit.score) > last + TOLERANCE)
        .map(|hit| format!("finds key {:016x}, which was not among its hits", hit.key));
    Ok(unknown)
}

fn rounded(score: f32) -> f64 {
    (f64::from(score) * 1e4).round() / 1e4
}
