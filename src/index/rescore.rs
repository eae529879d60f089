//! Exact scores for the candidates of the graph, only as many as can still matter.
//!
//! Candidates come nearest first by the index's own distance. The difference between that and the exact cosine is
//! followed as they are scored; once even [`SIGMAS`] of its deviations could not lift a candidate to the k-th best
//! exact score, no later one can get there either, and the rest of the sidecar's rows is not read.

use super::rows::Best;
use super::shard::Hit;

/// Deviations that a candidate is given the benefit of.
const SIGMAS: f64 = 4.0;
/// Differences that must be known before the rest is left out.
const LEAST: u32 = 12;

/// The `keep` best by exact score among `candidates` (key and approximate cosine, nearest first), best first, ties
/// by key. `stops_early` is for approximations whose error does not depend on the cosine; others are scored to the end.
///
/// # Errors
/// What `exact` says.
pub(super) fn rescore<E>(
    candidates: impl Iterator<Item = (u64, f32)>,
    keep: usize,
    stops_early: bool,
    mut exact: impl FnMut(u64) -> Result<f32, E>,
) -> Result<Vec<Hit>, E> {
    let mut best = Best::new(keep);
    let mut error = Deviation::default();
    for (key, approximate) in candidates {
        let floor = best.floor().filter(|_| stops_early && error.count >= LEAST);
        if floor.is_some_and(|floor| error.highest(approximate) < f64::from(floor)) {
            break;
        }
        let score = exact(key)?;
        error.push(f64::from(score) - f64::from(approximate));
        best.push(Hit { key, score });
    }
    Ok(best.into_sorted())
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
        let candidates = (0..80).map(|key| (key, 1.0 - key as f32 / 100.0));
        let mut looked = 0;
        let hits = rescore(candidates, 10, stops_early, |key| {
            looked += 1;
            Ok::<_, ()>(exact(key))
        });
        (hits.unwrap(), looked)
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
        let three = || (0..3).map(|key| (key, 0.5));
        assert_eq!(rescore(three(), 10, true, |_| Ok::<_, ()>(0.5)).unwrap().len(), 3);
        assert!(rescore(three(), 0, true, |_| Ok::<_, ()>(0.5)).unwrap().is_empty());
        assert_eq!(rescore(three(), 10, true, |_| Err("no row")), Err("no row"));
    }
}
