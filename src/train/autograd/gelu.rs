//! GELU of a sum with a bias, by the error function, on slices, with its way back.

use rayon::prelude::*;

use super::kernels::add_to;
use super::ops::ROWS_PER_TASK;
use crate::tower::{Isa, Kernel, Simd, normal};

/// `y = gelu(x + bias)` for rows of the bias's width.
pub(crate) fn forward(x: &[f32], bias: &[f32], y: &mut [f32]) {
    let block = bias.len() * ROWS_PER_TASK;
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        Isa::best().run(Forward { x, bias, y });
    });
}

/// The gradient of `x + bias`, in place of that of the result, and its columns added to `dbias`; the order of that sum does not
/// depend on the threads.
pub(crate) fn backward(x: &[f32], bias: &[f32], grad: &mut [f32], dbias: &mut [f32]) {
    let block = bias.len() * ROWS_PER_TASK;
    let parts: Vec<Vec<f32>> = grad
        .par_chunks_mut(block)
        .zip(x.par_chunks(block))
        .map(|(grad, x)| {
            let mut columns = vec![0.0; bias.len()];
            Isa::best().run(Backward { x, bias, grad, columns: &mut columns });
            columns
        })
        .collect();
    parts.iter().for_each(|columns| add_to(dbias, columns));
}

/// `y = gelu(x + bias)` for rows of the bias's width.
struct Forward<'a> {
    x: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.bias.len();
        for (y, x) in self.y.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            for ((y, x), b) in y.iter_mut().zip(x).zip(self.bias) {
                let x = x + b;
                *y = x * normal(x).0;
            }
        }
    }
}

/// The gradient of the sum.
struct Backward<'a> {
    x: &'a [f32],
    bias: &'a [f32],
    /// The gradient of y on the way in, of the sum on the way out.
    grad: &'a mut [f32],
    /// Its columns' sums.
    columns: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.bias.len();
        for (grad, x) in self.grad.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let own = grad.iter_mut().zip(self.columns.iter_mut());
            for ((g, column), (x, b)) in own.zip(x.iter().zip(self.bias)) {
                let x = x + b;
                let (up_to, density) = normal(x);
                *g *= up_to + x * density;
                *column += *g;
            }
        }
    }
}
