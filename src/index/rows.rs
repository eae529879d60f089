//! Rows scaled to unit length, and the k best of them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::shard::Hit;

/// `row` scaled to unit length, or what is wrong with it (to follow "the vector of ...").
pub(super) fn unit(row: &[f32]) -> Result<Vec<f32>, &'static str> {
    // f64: a large but finite row must not overflow, and 4,096 squares lose nothing.
    let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if !squares.is_finite() {
        return Err("has a non-finite element");
    }
    let norm = squares.sqrt();
    if norm == 0.0 {
        return Err("is zero, which has no direction to compare by");
    }
    Ok(row.iter().map(|x| (f64::from(*x) / norm) as f32).collect())
}

/// Best first: higher score, then lower key.
pub(super) fn best_first(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then(a.key.cmp(&b.key))
}

/// Keeps the `k` best hits of a stream.
pub(super) struct Best {
    k: usize,
    heap: BinaryHeap<Worst>,
}

struct Worst(Hit);

impl PartialEq for Worst {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Worst {}
impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        best_first(&self.0, &other.0)
    }
}

impl Best {
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    pub fn push(&mut self, hit: Hit) {
        if self.heap.len() < self.k {
            self.heap.push(Worst(hit));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && best_first(&hit, &worst.0) == Ordering::Less
        {
            *worst = Worst(hit);
        }
    }

    /// The score that a further hit has to reach, once there are k.
    pub fn floor(&self) -> Option<f32> {
        self.heap.peek().filter(|_| self.heap.len() >= self.k).map(|worst| worst.0.score)
    }

    pub fn into_sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_refuses_what_has_no_direction() {
        assert_eq!(unit(&[3.0, 4.0]).unwrap(), [0.6, 0.8]);
        assert_eq!(unit(&[f32::MAX, 0.0]).unwrap(), [1.0, 0.0]);
        assert!(unit(&[0.0, 0.0]).is_err() && unit(&[f32::INFINITY, 1.0]).is_err());
    }

    #[test]
    fn best_keeps_the_highest_and_breaks_ties_by_key() {
        let mut best = Best::new(3);
        for (key, score) in [(9, 0.5), (2, 0.5), (4, 0.9), (1, 0.1), (3, 0.5)] {
            best.push(Hit { key, score });
        }
        let keys: Vec<u64> = best.into_sorted().iter().map(|hit| hit.key).collect();
        assert_eq!(keys, [4, 2, 3]);
    }
}
