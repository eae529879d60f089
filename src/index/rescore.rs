//! Exact scores for the candidates of the graph, only as many as can still matter.
//!
//! Candidates come nearest first by the index's own distance. The difference between that and the exact cosine is
//! followed as they are scored; once even [`SIGMAS`] of its deviations could not lift a candidate to the k-th best
//! exact score, no later one can get there either, and the rest of the sidecar's rows is not read.

use super::rows::{Best, Hit};

/// Deviations that a candidate is given the benefit of.
const SIGMAS: f64 = 4.0;
/// Differences that must be known before the rest is left out.
const LEAST: u32 = 12;

/// Candidates whose rows are asked for before they are scored: a row takes as long to come as some others to score.
const AHEAD: usize = 4;

/// The `keep` best by exact score among `candidates` (row and approximate cosine, nearest first), best first, ties
/// by key. `stops_early` is for approximations whose error does not depend on the cosine; others are scored to the end.
/// `ahead` is told of a row some candidates before `exact` scores it.
pub(super) fn rescore(
    candidates: &[(usize, f32)],
    keep: usize,
    stops_early: bool,
    ahead: impl Fn(usize),
    mut exact: impl FnMut(usize) -> Hit,
) -> Vec<Hit> {
    let mut best = Best::new(keep);
    let mut error = Deviation::default();
    candidates.iter().take(AHEAD).for_each(|(row, _)| ahead(*row));
    for (at, (row, approximate)) in candidates.iter().enumerate() {
        let floor = best.floor().filter(|_| stops_early && error.count >= LEAST);
        if floor.is_some_and(|floor| error.highest(*approximate) < f64::from(floor)) {
            break;
        }
        if let Some((row, _)) = candidates.get(at + AHEAD) {
            ahead(*row);
        }
        let hit = exact(*row);
        error.push(f64::from(hit.score) - f64::from(*approximate));
        best.push(hit);
    }
    best.into_sorted()
}

/// Running mean and deviation (Welford 1962).
#[derive(Default)]
struct Deviation {
    count: u32,
    mean: f64,
    squares: f64,
}

impl Deviation {
    fn push(&mut self, x: f64) {
        self.count += 1;
        let from_mean = x - self.mean;
        self.mean += from_mean / f64::from(self.count);
        self.squares += from_mean * (x - self.mean);
    }

    /// What an approximate score may turn out to be at most.
    fn highest(&self, approximate: f32) -> f64 {
        let deviation = (self.squares / f64::from(self.count - 1)).sqrt();
        f64::from(approximate) + self.mean + SIGMAS * deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    /// Candidates whose exact scores differ from 1, 0.99, 0.98, ... by up to `noise`, and how many were scored.
    fn scored(noise: f32, stops_early: bool) -> (Vec<Hit>, usize) {
        let exact = |key: u64| {
            let random = (mix(key) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            1.0 - key as f32 / 100.0 + 2.0 * noise * random
        };
        let candidates: Vec<_> = (0..80).map(|row| (row, 1.0 - row as f32 / 100.0)).collect();
        let mut looked = 0;
        let asked = std::cell::Cell::new(0);
        let ahead = |row| assert_eq!(row, asked.replace(row + 1), "rows are asked for in order");
        let hits = rescore(&candidates, 10, stops_early, ahead, |row| {
            assert!(row < asked.get(), "asked for before");
            looked += 1;
            Hit { key: row as u64, score: exact(row as u64) }
        });
        (hits, looked)
    }

    #[test]
    fn candidates_that_cannot_matter_are_not_scored() {
        for noise in [0.0, 0.002, 0.02, 0.1] {
            let (all, looked) = scored(noise, false);
            assert_eq!(looked, 80);
            let (some, looked) = scored(noise, true);
            assert_eq!(some, all, "{noise}");
            // Four deviations of an even spread of `noise` are 2.3 of it, a hundredth is one candidate.
            assert!(looked <= 14 + (500.0 * noise) as usize, "{looked} at {noise}");
        }
    }

    #[test]
    fn few_candidates_and_none_kept_are_no_trouble() {
        let three = [(0, 0.5), (1, 0.5), (2, 0.5)];
        let exact = |row| Hit { key: row as u64, score: 0.5 };
        assert_eq!(rescore(&three, 10, true, |_| {}, exact).len(), 3);
        assert!(rescore(&three, 0, true, |_| {}, exact).is_empty());
        assert!(rescore(&[], 10, true, |_| {}, exact).is_empty());
    }
}
