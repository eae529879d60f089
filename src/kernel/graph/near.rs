//! A slot at its distance, as one number that sorts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Sorts by distance (all floats in order, -0 before 0), then by slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Near(u64);

impl Near {
    /// A slot at a distance.
    #[inline(always)]
    pub fn new(distance: f32, slot: u32) -> Self {
        let bits = distance.to_bits();
        // Negative numbers sort in reverse and before all others.
        let turned = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Self(u64::from(turned) << 32 | u64::from(slot))
    }

    /// The slot.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.0 as u32
    }

    /// The distance.
    #[inline(always)]
    pub fn distance(self) -> f32 {
        let turned = (self.0 >> 32) as u32;
        f32::from_bits(if turned >> 31 == 1 { turned ^ 1 << 31 } else { !turned })
    }
}

/// The `limit` nearest of what is offered.
#[derive(Debug, Clone, Default)]
pub struct Nearest {
    heap: BinaryHeap<Near>,
    limit: usize,
}

impl Nearest {
    pub fn begin(&mut self, limit: usize) {
        self.heap.clear();
        self.limit = limit.max(1);
    }

    /// Whether it would be kept.
    #[inline(always)]
    pub fn takes(&self, near: Near) -> bool {
        self.heap.len() < self.limit || self.heap.peek().is_some_and(|worst| near < *worst)
    }

    /// Whether there are enough, all nearer. As near as the farthest is not enough: among bits many are, and what they
    /// lead to counts.
    #[inline(always)]
    pub fn ends_before(&self, near: Near) -> bool {
        let farther = |worst: &Near| near.0 >> 32 > worst.0 >> 32;
        self.heap.len() >= self.limit && self.heap.peek().is_some_and(farther)
    }

    #[inline(always)]
    pub fn offer(&mut self, near: Near) {
        if self.heap.len() < self.limit {
            self.heap.push(near);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && near < *worst
        {
            *worst = near;
        }
    }

    /// Moves them to `to`, nearest first.
    pub fn drain_sorted(&mut self, to: &mut Vec<Near>) {
        to.clear();
        to.extend(self.heap.drain());
        to.sort_unstable();
    }
}

/// What is still to be looked at, nearest first.
#[derive(Debug, Clone, Default)]
pub struct Queue(BinaryHeap<Reverse<Near>>);

impl Queue {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds one; true where nothing in the queue is nearer.
    #[inline(always)]
    pub fn push(&mut self, near: Near) -> bool {
        let first = self.first().is_none_or(|before| near < before);
        self.0.push(Reverse(near));
        first
    }

    #[inline(always)]
    pub fn pop(&mut self) -> Option<Near> {
        self.0.pop().map(|Reverse(near)| near)
    }

    #[inline(always)]
    pub fn first(&self) -> Option<Near> {
        self.0.peek().map(|Reverse(near)| *near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_sort_and_come_back() {
        let distances = [f32::NEG_INFINITY, -2.5, -1e-7, -0.0, 0.0, 1e-9, 0.5, 2.0, 1e9];
        let nears: Vec<Near> = distances.iter().map(|d| Near::new(*d, 7)).collect();
        assert!(nears.is_sorted_by(|a, b| a < b));
        for (near, distance) in nears.iter().zip(distances) {
            assert_eq!((near.distance().to_bits(), near.slot()), (distance.to_bits(), 7));
        }
        assert!(Near::new(0.5, 1) < Near::new(0.5, 2));
    }

    #[test]
    fn the_nearest_are_kept_and_the_queue_gives_them_in_order() {
        let (mut nearest, mut queue, mut found) = (Nearest::default(), Queue::default(), vec![]);
        nearest.begin(3);
        for (slot, distance) in [0.9, 0.1, 0.5, 0.7, 0.3, 0.8].into_iter().enumerate() {
            let near = Near::new(distance, slot as u32);
            assert_eq!(nearest.takes(near), slot != 5);
            nearest.offer(near);
            assert_eq!(queue.push(near), slot < 2);
        }
        nearest.drain_sorted(&mut found);
        assert_eq!(found.iter().map(|near| near.slot()).collect::<Vec<_>>(), [1, 4, 2]);
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(Near::slot).collect();
        assert_eq!(order, [1, 4, 2, 3, 5, 0]);
    }
}
