//! How well codes keep the order of each query's near neighbours, where the ranking is decided.

use crate::kernel::dot;
use crate::types::Embeddings;

/// Most vectors that a fit looks at, taken evenly from the sample.
pub(super) const VECTORS: usize = 2_048;
/// Of those, how many also serve as queries.
const QUERIES: usize = 128;
/// Nearest neighbours per query whose order a fit tries to keep.
const NEIGHBOURS: usize = 100;

/// The exact side of a fit: each query's near neighbours and their cosines.
pub(super) struct Fit(Vec<(usize, Vec<(usize, f32)>)>);

impl Fit {
    pub fn new(units: &Embeddings) -> Self {
        let step = units.len().div_ceil(QUERIES).max(1);
        let near = |query: usize| {
            let mut all: Vec<(usize, f32)> = (0..units.len())
                .filter(|other| *other != query)
                .map(|other| (other, dot(units.row(query), units.row(other))))
                .collect();
            all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(NEIGHBOURS);
            all
        };
        Self((0..units.len()).step_by(step).map(|query| (query, near(query))).collect())
    }

    /// How far what codes tell of the cosine of a query and another vector is from a straight line over the exact one,
    /// summed over queries: a shift or a factor changes no ranking.
    pub fn loss(&self, told: impl Fn(usize, usize) -> f32) -> f64 {
        let of_query = |(query, near): &(usize, Vec<(usize, f32)>)| {
            let pair = |(other, exact): &(usize, f32)| {
                (f64::from(*exact), f64::from(told(*query, *other)))
            };
            unexplained(&near.iter().map(pair).collect::<Vec<_>>())
        };
        self.0.iter().map(of_query).sum()
    }
}

/// 1 - r^2 of a linear fit: 0 where the two agree but for a shift and a factor, 1 where nothing is kept.
fn unexplained(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len().max(1) as f64;
    let mean_x = pairs.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = pairs.iter().map(|(_, y)| y).sum::<f64>() / n;
    let (mut xx, mut yy, mut xy) = (0f64, 0f64, 0f64);
    for (x, y) in pairs {
        let (x, y) = (x - mean_x, y - mean_y);
        (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
    }
    if xx <= 0.0 {
        0.0
    } else if yy <= 0.0 || xy <= 0.0 {
        1.0
    } else {
        1.0 - xy * xy / (xx * yy)
    }
}
