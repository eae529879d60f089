//! Norms of rows, in place.

use super::super::lanes::{add_to, sum, sum_of};
use super::super::packed::inverse_rms;
use super::super::simd::{Isa, Kernel, Simd, kernel};

kernel! {
    /// RMS-normalises the rows of `x`, as wide as `weight`.
    pub fn rms_norm_rows<'a, S: Simd>(isa: Isa, x: &'a mut [f32], weight: &'a [f32], epsilon: f32) {
        for row in x.chunks_exact_mut(weight.len()) {
            let inverse = inverse_rms::<S>(row, epsilon);
            row.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * inverse * *w);
        }
    }
}

kernel! {
    /// `x = norm(x + add)`, row by row: mean 0 and variance 1, times the norm's weight, plus its bias.
    pub fn layer_norm_rows<'a, S: Simd>(
        isa: Isa, x: &'a mut [f32], add: &'a [f32], weight: &'a [f32], bias: &'a [f32], epsilon: f32,
    ) {
        let width = add.len();
        for row in x.chunks_exact_mut(width) {
            add_to(row, add);
            let mean = sum(row) / width as f32;
            let variance = sum_of(row, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = (variance + epsilon).sqrt().recip();
            for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                *x = (*x - mean) * scale * w + b;
            }
        }
    }
}
