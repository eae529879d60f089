//! GELU of a sum with a bias, by the error function, on slices, and its gradient.

use rayon::prelude::*;

use super::super::elementary::normal;
use super::super::lanes::add_to;
use super::super::simd::{Isa, Kernel, Simd, kernel};
use super::task::ROWS;

/// `y = gelu(x + bias)` for rows of the bias's width.
pub fn forward(x: &[f32], bias: &[f32], y: &mut [f32]) {
    let block = bias.len() * ROWS;
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        forward_rows(Isa::best(), x, bias, y);
    });
}

/// The gradient of `x + bias`, in place of that of the result, and its columns added to `dbias`; the order of that sum
/// does not depend on the threads.
pub fn backward(x: &[f32], bias: &[f32], grad: &mut [f32], dbias: &mut [f32]) {
    let block = bias.len() * ROWS;
    let parts: Vec<Vec<f32>> = grad
        .par_chunks_mut(block)
        .zip(x.par_chunks(block))
        .map(|(grad, x)| {
            let mut columns = vec![0.0; bias.len()];
            backward_rows(Isa::best(), x, bias, grad, &mut columns);
            columns
        })
        .collect();
    parts.iter().for_each(|columns| add_to(dbias, columns));
}

kernel! {
    /// [`forward`] of some rows.
    fn forward_rows<'a, S: Simd>(isa: Isa, x: &'a [f32], bias: &'a [f32], y: &'a mut [f32]) {
        let width = bias.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
                let x = x + b;
                *y = x * normal(x).0;
            }
        }
    }
}

kernel! {
    /// [`backward`] of some rows.
    fn backward_rows<'a, S: Simd>(
        isa: Isa, x: &'a [f32], bias: &'a [f32], grad: &'a mut [f32], columns: &'a mut [f32],
    ) {
        let width = bias.len();
        for (grad, x) in grad.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let own = grad.iter_mut().zip(columns.iter_mut());
            for ((g, column), (x, b)) in own.zip(x.iter().zip(bias)) {
                let x = x + b;
                let (up_to, density) = normal(x);
                *g *= up_to + x * density;
                *column += *g;
            }
        }
    }
}
