//! Numbers that are added to scores by the distance of query and key (MPNet).

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use crate::tower::model::encoder_config::Relative;

/// The numbers of all heads.
pub(super) struct DistanceBias {
    relative: Relative,
    heads: usize,
    /// `[buckets, heads]`
    numbers: Vec<f32>,
    device: Device,
    dtype: DType,
    /// `[heads, length, length]`, queries by keys. Made when first needed, and again for a longer sequence.
    square: Mutex<Option<Tensor>>,
}

impl DistanceBias {
    pub(super) fn new(
        (relative, numbers): (Relative, Vec<f32>),
        heads: usize,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let (device, square) = (device.clone(), Mutex::default());
        Self { relative, heads, numbers, device, dtype, square }
    }

    /// `[heads, queries, keys]` of places in one sequence.
    pub(super) fn of(&self, queries: &Range<usize>, keys: &Range<usize>) -> Result<Tensor> {
        let length = queries.end.max(keys.end);
        let mut square = self.square.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match square.take() {
            Some(made) if made.dim(1)? >= length => made,
            _ => self.made(length.next_power_of_two())?,
        };
        *square = Some(made.clone());
        made.narrow(1, queries.start, queries.len())?.narrow(2, keys.start, keys.len())
    }

    fn made(&self, length: usize) -> Result<Tensor> {
        // One row of distances a head, of which each query has its own part.
        let distances = 1 - length as isize..length as isize;
        let buckets: Vec<usize> = distances.map(|at| self.relative.bucket(at)).collect();
        let mut values = Vec::with_capacity(self.heads * length * length);
        for head in 0..self.heads {
            let line: Vec<f32> =
                buckets.iter().map(|bucket| self.numbers[bucket * self.heads + head]).collect();
            for query in 0..length {
                values.extend_from_slice(&line[length - 1 - query..][..length]);
            }
        }
        let shape = (self.heads, length, length);
        Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_belongs_to_a_head_and_a_distance() {
        let relative = Relative { buckets: 32, farthest: 128 };
        let heads = 3;
        let numbers: Vec<f32> = (0..32 * heads).map(|at| at as f32).collect();
        let bias = DistanceBias::new((relative, numbers.clone()), heads, &Device::Cpu, DType::F32);
        for (queries, keys) in [(0..5, 0..9), (7..8, 2..9), (100..140, 0..300), (3..4, 3..4)] {
            let found = bias.of(&queries, &keys).unwrap().to_vec3::<f32>().unwrap();
            assert_eq!(found.len(), heads);
            for (head, rows) in found.iter().enumerate() {
                for (query, row) in queries.clone().zip(rows) {
                    for (key, number) in keys.clone().zip(row) {
                        let bucket = relative.bucket(key as isize - query as isize);
                        assert_eq!(*number, numbers[bucket * heads + head], "{query} {key}");
                    }
                }
            }
        }
    }
}
