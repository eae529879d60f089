//! The loops of AdamW over a parameter's numbers, in place.

use rayon::prelude::*;

use super::super::lanes::dot;
use super::super::simd::{Isa, Kernel, Simd};
use super::task::NUMBERS;

/// Sum of the squares. Blocks are added up in order, so the threads do not decide the result.
pub fn squared_norm(grad: &[f32]) -> f64 {
    let blocks: Vec<f32> = grad.par_chunks(NUMBERS).map(|block| dot(block, block)).collect();
    blocks.into_iter().map(f64::from).sum()
}

/// `m = keep m + add g`
pub fn moment(moment: &mut [f32], grad: &[f32], keep: f32, add: f32) {
    decay::<false>(moment, grad, keep, add);
}

/// `v = keep v + add g^2`
pub fn squared_moment(moment: &mut [f32], grad: &[f32], keep: f32, add: f32) {
    decay::<true>(moment, grad, keep, add);
}

fn decay<const SQUARED: bool>(moment: &mut [f32], grad: &[f32], keep: f32, add: f32) {
    moment.par_chunks_mut(NUMBERS).zip(grad.par_chunks(NUMBERS)).for_each(|(moment, grad)| {
        Isa::best().run(Decay::<SQUARED> { moment, grad, keep, add });
    });
}

struct Decay<'a, const SQUARED: bool> {
    moment: &'a mut [f32],
    grad: &'a [f32],
    keep: f32,
    add: f32,
}

impl<const SQUARED: bool> Kernel for Decay<'_, SQUARED> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { moment, grad, keep, add } = self;
        for (m, g) in moment.iter_mut().zip(grad) {
            let g = if SQUARED { g * g } else { *g };
            *m = keep * *m + add * g;
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
        p.par_chunks_mut(NUMBERS).zip(moments).for_each(|(value, moments)| {
            Isa::best().run(Block { value, moments, by: self });
        });
    }
}

struct Block<'a> {
    value: &'a mut [f32],
    moments: (&'a [f32], &'a [f32]),
    by: Update,
}

impl Kernel for Block<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Update { kept, rate, second, epsilon } = self.by;
        for ((p, m), v) in self.value.iter_mut().zip(self.moments.0).zip(self.moments.1) {
            *p = kept * *p - rate * m / ((second * v).sqrt() + epsilon);
        }
    }
}
