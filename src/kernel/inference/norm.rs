//! Norms of rows, in place.

use super::super::lanes::sum_of;
use super::super::packed::inverse_rms;
use super::super::simd::{Isa, Kernel, Simd};

/// RMS-normalises the rows of `x`, as wide as `weight`.
pub fn norm_rows(isa: Isa, x: &mut [f32], weight: &[f32], epsilon: f32) {
    isa.run(NormRows { x, weight, epsilon });
}

struct NormRows<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f32,
}

impl Kernel for NormRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for row in self.x.chunks_exact_mut(self.weight.len()) {
            let inverse = inverse_rms::<S>(row, self.epsilon);
            row.iter_mut().zip(self.weight).for_each(|(x, w)| *x = *x * inverse * *w);
        }
    }
}

/// `x = norm(x + add)`, row by row: mean 0 and variance 1, times the norm's weight, plus its `bias`.
pub struct LayerNorm<'a> {
    /// Rows as wide as the parameters.
    pub x: &'a mut [f32],
    /// Added to every row first.
    pub add: &'a [f32],
    /// The norm's weight.
    pub weight: &'a [f32],
    /// The norm's bias.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

impl LayerNorm<'_> {
    /// Normalises the rows.
    pub fn apply(self, isa: Isa) {
        isa.run(self);
    }
}

impl Kernel for LayerNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.add.len();
        for row in self.x.chunks_exact_mut(width) {
            row.iter_mut().zip(self.add).for_each(|(x, b)| *x += b);
            let mean = sum_of(row, |x| x) / width as f32;
            let variance = sum_of(row, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = (variance + self.epsilon).sqrt().recip();
            for ((x, w), b) in row.iter_mut().zip(self.weight).zip(self.bias) {
                *x = (*x - mean) * scale * w + b;
            }
        }
    }
}
