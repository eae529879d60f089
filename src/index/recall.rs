//! recall@10 of an index as served, on a deterministic sample of queries.
//!
//! Queries: a stored vector moved by [`SHIFT`] times the difference of two other stored ones,
//! `q = x + 0.35 (y - z)`, and `x` itself taken out of both answers. Plain stored vectors flatter a graph,
//! because it links them to their own neighbours (GloVe, 80,000 x 100, ef 80: 0.961, held-out queries
//! 0.933, this protocol 0.930), and the shift follows the data's own spread where white noise would not.
//! A hit counts if its exact cosine reaches the k-th best, so ties count whichever way they are broken.

use half::slice::HalfFloatSliceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::row_set::RowSet;
use super::rows::{Best, Hit, best_first, unit};
use super::shard::ShardIndex;
use crate::error::Result;
use crate::kernel::{Target, View, product};
use crate::types::{Cancel, mix};

/// k of recall@k.
const K: usize = 10;
/// Sampled queries, or every vector where there are fewer.
pub(super) const QUERIES: usize = 500;
/// How far a query lies from the stored vector it is made of.
const SHIFT: f32 = 0.35;
/// Two cosines of one pair, summed in different orders, differ by less.
const TIE: f32 = 2e-6;
/// Rows scored at once: a block of 1,024-dimensional rows stays in the second-level cache.
const BLOCK: usize = 256;

/// recall@k on a sample with a 95% interval (over queries).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recall {
    /// k.
    pub k: u32,
    /// Sampled queries.
    pub queries: u32,
    /// Mean recall.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Recall {
    /// Mean and interval of one recall per query; 1 where there was nothing to find.
    fn of(k: usize, recalls: &[f64]) -> Self {
        let n = recalls.len() as f64;
        let (mean, low, high) = if recalls.is_empty() {
            (1.0, 1.0, 1.0)
        } else {
            let mean = recalls.iter().sum::<f64>() / n;
            let (low, high) = wilson(mean, effective_queries(recalls, mean, k));
            (mean, low, high)
        };
        Self { k: k as u32, queries: recalls.len() as u32, mean, low, high }
    }
}

/// How many independent hit-or-miss trials have the variance seen: at least one and at most k a query.
/// Without any variance (all perfect), one a query: the cautious end.
fn effective_queries(recalls: &[f64], mean: f64, k: usize) -> f64 {
    let n = recalls.len() as f64;
    let variance = recalls.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    if variance <= 0.0 { n } else { (n * mean * (1.0 - mean) / variance).clamp(n, n * k as f64) }
}

/// Wilson's 95% score interval of a proportion over `n` trials (JASA 1927).
fn wilson(p: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let z2 = Z * Z;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0).min(p), (centre + half).min(1.0).max(p))
}

/// Where a live row is: segment and row in it.
type Place = (usize, usize);

/// One sampled query: the row it was made of and its unit vector.
struct Query {
    row: Place,
    unit: Vec<f32>,
}

/// Measures the segments of one shard as they serve together: with their own ef and rescoring, among the rows of
/// each that count, against an exact scan of all of these.
///
/// # Errors
/// Cancelled; what a search says.
pub fn measure(segments: &[(&ShardIndex, &RowSet)], cancel: &Cancel) -> Result<Recall> {
    let live: usize = segments.iter().map(|(_, rows)| rows.len()).sum();
    let k = K.min(live.saturating_sub(1));
    if k == 0 {
        return Ok(Recall::of(K, &vec![1.0; live]));
    }
    let queries = sample(segments);
    let floors = exact_floors(segments, &queries, k, cancel)?;
    let mut recalls = Vec::with_capacity(queries.len());
    for (query, floor) in queries.iter().zip(floors) {
        let own = segments[query.row.0].0.keys()[query.row.1];
        // Room for its own vector, but no more candidates than a search for k would see.
        let mut found: Vec<(Hit, &ShardIndex)> = Vec::new();
        for (shard, rows) in segments {
            let hits = shard.search_unit_among(&query.unit, k, k + 1, rows)?;
            found.extend(hits.into_iter().map(|hit| (hit, *shard)));
        }
        found.sort_unstable_by(|(a, _), (b, _)| best_first(a, b));
        let hits = found.iter().filter(|(hit, _)| hit.key != own).take(k);
        let exact = |(hit, shard): &(Hit, &ShardIndex)| {
            shard.sidecar().row_of(hit.key).map(|row| shard.sidecar().score(row, &query.unit))
        };
        let good = hits.filter_map(exact).filter(|score| *score >= floor - TIE).count();
        recalls.push(good as f64 / k as f64);
    }
    Ok(Recall::of(K, &recalls))
}

/// The vectors whose mixed keys are smallest: another note more or less changes hardly any query.
fn sample(segments: &[(&ShardIndex, &RowSet)]) -> Vec<Query> {
    let places: Vec<Place> = segments
        .iter()
        .enumerate()
        .flat_map(|(segment, (_, live))| live.iter().map(move |row| (segment, row)))
        .collect();
    let vector = |(segment, row): Place| segments[segment].0.sidecar().row_f32(row);
    let mut rows: Vec<(u64, Place)> = places
        .iter()
        .map(|&(segment, row)| (mix(segments[segment].0.keys()[row]), (segment, row)))
        .collect();
    let count = QUERIES.min(rows.len());
    if count < rows.len() {
        rows.select_nth_unstable(count);
        rows.truncate(count);
    }
    rows.sort_unstable();
    let other = |salt: u64| vector(places[(mix(salt) % places.len() as u64) as usize]);
    rows.into_iter()
        .map(|(mixed, row)| {
            let x = vector(row);
            let (y, z) = (other(mixed ^ 1), other(mixed ^ 2));
            let moved: Vec<f32> =
                x.iter().zip(y.iter().zip(&z)).map(|(x, (y, z))| x + SHIFT * (y - z)).collect();
            // Vectors that cancel out leave the stored one.
            Query { row, unit: unit(&moved).unwrap_or(x) }
        })
        .collect()
}

/// Per query the k-th best exact cosine among all live rows but its own.
fn exact_floors(
    segments: &[(&ShardIndex, &RowSet)],
    queries: &[Query],
    k: usize,
    cancel: &Cancel,
) -> Result<Vec<f32>> {
    let dimensions = queries.first().map_or(0, |query| query.unit.len());
    let flat: Vec<f32> = queries.iter().flat_map(|query| query.unit.iter().copied()).collect();
    let mut best: Vec<(f32, Best)> =
        queries.iter().map(|_| (f32::NEG_INFINITY, Best::new(k))).collect();
    let mut wide = vec![0f32; BLOCK * dimensions];
    let mut scores = vec![0f32; BLOCK * queries.len()];
    for (segment, (shard, live)) in segments.iter().enumerate() {
        let sidecar = shard.sidecar();
        for start in (0..sidecar.len()).step_by(BLOCK) {
            cancel.check()?;
            let rows = BLOCK.min(sidecar.len() - start);
            let wide = &mut wide[..rows * dimensions];
            for at in 0..rows {
                sidecar
                    .row(start + at)
                    .convert_to_f32_slice(&mut wide[at * dimensions..(at + 1) * dimensions]);
            }
            scores_of_block(&flat, wide, dimensions, &mut scores[..rows * queries.len()]);
            for (query, (floor, best)) in best.iter_mut().enumerate() {
                for at in 0..rows {
                    let (score, row) = (scores[query * rows + at], start + at);
                    if score > *floor && live.contains(row) && (segment, row) != queries[query].row
                    {
                        // Only the score counts: any number in place of the key will do.
                        best.push(Hit { key: row as u64, score });
                        if let Some(worst) = best.floor() {
                            *floor = worst;
                        }
                    }
                }
            }
        }
    }
    Ok(best.into_iter().map(|(_, best)| best.floor().unwrap_or(f32::NEG_INFINITY)).collect())
}

/// `out[query, row] = queries[query] . rows[row]`, all row-major.
fn scores_of_block(queries: &[f32], rows: &[f32], dimensions: usize, out: &mut [f32]) {
    let (m, n) = (queries.len() / dimensions, rows.len() / dimensions);
    assert!(queries.len() == m * dimensions && rows.len() == n * dimensions && out.len() == m * n);
    let target = Target { data: out, stride: n, accumulate: false };
    let (queries, rows) = (View::rows(queries, dimensions), View::rows(rows, dimensions).t());
    product(target, (m, n, dimensions), 1.0, queries, rows, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_cautious_when_all_is_perfect_and_narrow_when_queries_agree() {
        let perfect = Recall::of(10, &[1.0; 200]);
        assert_eq!((perfect.mean, perfect.high), (1.0, 1.0));
        assert!((0.97..0.99).contains(&perfect.low), "{perfect:?}");
        let even: Vec<f64> = (0..200).map(|at| if at % 2 == 0 { 0.9 } else { 1.0 }).collect();
        let even = Recall::of(10, &even);
        assert!(even.low > 0.92 && even.high < 0.97, "{even:?}");
        let split: Vec<f64> = (0..200).map(|at| f64::from(at % 20 != 0)).collect();
        let split = Recall::of(10, &split);
        assert!(split.high - split.low > 2.0 * (even.high - even.low), "{split:?}");
        assert_eq!(Recall::of(10, &[]).queries, 0);
    }

    #[test]
    fn a_block_of_scores_is_the_matrix_product() {
        let queries = [1., 2., 3., 4., 5., 6.];
        let rows = [1., 0., 0., 0., 1., 0., 0., 0., 1., 1., 1., 1.];
        let mut out = [0.; 8];
        scores_of_block(&queries, &rows, 3, &mut out);
        assert_eq!(out, [1., 2., 3., 6., 4., 5., 6., 15.]);
    }
}
