//! The loops of AdamW over a parameter's numbers, in place.

use rayon::prelude::*;

use super::super::lanes::dot;
use super::super::simd::{Isa, Kernel, Simd, kernel};
use super::task::NUMBERS;

/// Sum of the squares. Blocks are added up in order, so the threads do not decide the result.
pub fn squared_norm(grad: &[f32]) -> f64 {
    let blocks: Vec<f32> = grad.par_chunks(NUMBERS).map(|block| dot(block, block)).collect();
    blocks.into_iter().map(f64::from).sum()
}

/// `m = keep m + add g`
pub fn moment(m: &mut [f32], grad: &[f32], keep: f32, add: f32) {
    m.par_chunks_mut(NUMBERS).zip(grad.par_chunks(NUMBERS)).for_each(|(m, grad)| {
        moment_some(Isa::best(), m, grad, keep, add);
    });
}

kernel! {
    fn moment_some<'a, S: Simd>(isa: Isa, m: &'a mut [f32], grad: &'a [f32], keep: f32, add: f32) {
        for (m, g) in m.iter_mut().zip(grad) {
            *m = keep * *m + add * g;
        }
    }
}

/// `v = keep v + add g^2`
pub fn squared_moment(v: &mut [f32], grad: &[f32], keep: f32, add: f32) {
    v.par_chunks_mut(NUMBERS).zip(grad.par_chunks(NUMBERS)).for_each(|(v, grad)| {
        squared_moment_some(Isa::best(), v, grad, keep, add);
    });
}

kernel! {
    fn squared_moment_some<'a, S: Simd>(
        isa: Isa, v: &'a mut [f32], grad: &'a [f32], keep: f32, add: f32,
    ) {
        for (v, g) in v.iter_mut().zip(grad) {
            *v = keep * *v + add * (g * g);
        }
    }
}

/// `p = kept p - rate m / (sqrt(second v) + epsilon)`
#[derive(Clone, Copy)]
pub struct Update {
    /// What decay leaves of the value.
    pub kept: f32,
    /// The learning rate.
    pub rate: f32,
    /// Corrects the second moment.
    pub second: f32,
    /// Added to the denominator.
    pub epsilon: f32,
}

impl Update {
    /// Changes the values `p` by their moments `m` and `v`.
    pub fn apply(self, p: &mut [f32], m: &[f32], v: &[f32]) {
        let moments = m.par_chunks(NUMBERS).zip(v.par_chunks(NUMBERS));
        p.par_chunks_mut(NUMBERS).zip(moments).for_each(|(p, (m, v))| {
            update_some(Isa::best(), self, p, m, v);
        });
    }
}

kernel! {
    fn update_some<'a, S: Simd>(
        isa: Isa, by: Update, p: &'a mut [f32], m: &'a [f32], v: &'a [f32],
    ) {
        let Update { kept, rate, second, epsilon } = by;
        for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
            *p = kept * *p - rate * m / ((second * v).sqrt() + epsilon);
        }
    }
}
