//! RMSNorm of rows and its gradient.

use rayon::prelude::*;

use super::super::lanes::dot;
use super::task::ROWS;

/// `y = x / rms(x) * weight` for rows of the weight's width.
pub fn forward(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    let block = width * ROWS;
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = inverse_rms(x, epsilon);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    });
}

/// The gradient `dx` of the rows from `g`, that of the result; adds the weight's to `dw`, unless that is empty.
pub fn backward(
    (x, weight, g): (&[f32], &[f32], &[f32]),
    epsilon: f32,
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let width = weight.len();
    let block = width * ROWS;
    let blocks = dx.par_chunks_mut(block).zip(x.par_chunks(block));
    blocks.zip(g.par_chunks(block)).for_each(|((dx, x), g)| {
        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((dx, x), g) in rows.zip(g.chunks_exact(width)) {
            let scale = inverse_rms(x, epsilon);
            for ((dx, g), w) in dx.iter_mut().zip(g).zip(weight) {
                *dx = g * w;
            }
            let pull = dot(dx, x) * scale * scale / width as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = scale * (*dx - x * pull);
            }
        }
    });
    if !dw.is_empty() {
        // One after the other: the sum over rows must not depend on the threads.
        for (x, g) in x.chunks_exact(width).zip(g.chunks_exact(width)) {
            let scale = inverse_rms(x, epsilon);
            for ((dw, x), g) in dw.iter_mut().zip(x).zip(g) {
                *dw += g * x * scale;
            }
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
    (dot(x, x) / x.len() as f32 + epsilon).sqrt().recip()
}
