//! SwiGLU and its gradient.

use rayon::prelude::*;

use super::super::elementary::exp;
use super::super::simd::{Isa, Kernel, Simd, kernel};
use super::task::NUMBERS;

/// `y = silu(gate) * up`.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let blocks = y.par_chunks_mut(NUMBERS).zip(gate.par_chunks(NUMBERS));
    blocks.zip(up.par_chunks(NUMBERS)).for_each(|((y, gate), up)| {
        forward_some(Isa::best(), gate, up, y);
    });
}

/// The gradients of gate and up from `grad`, that of the result.
pub fn backward((gate, up, grad): (&[f32], &[f32], &[f32]), dgate: &mut [f32], dup: &mut [f32]) {
    let outputs = dgate.par_chunks_mut(NUMBERS).zip(dup.par_chunks_mut(NUMBERS));
    let inputs = gate.par_chunks(NUMBERS).zip(up.par_chunks(NUMBERS));
    let blocks = outputs.zip(inputs).zip(grad.par_chunks(NUMBERS));
    blocks.for_each(|(((dgate, dup), (gate, up)), grad)| {
        backward_some(Isa::best(), gate, up, grad, dgate, dup);
    });
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

kernel! {
    /// [`forward`] of some numbers.
    fn forward_some<'a, S: Simd>(isa: Isa, gate: &'a [f32], up: &'a [f32], y: &'a mut [f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * sigmoid(*g) * u;
        }
    }
}

kernel! {
    /// [`backward`] of some numbers.
    fn backward_some<'a, S: Simd>(
        isa: Isa, gate: &'a [f32], up: &'a [f32], grad: &'a [f32], dgate: &'a mut [f32], dup: &'a mut [f32],
    ) {
        let outputs = dgate.iter_mut().zip(dup);
        for ((dg, du), ((g, u), d)) in outputs.zip(gate.iter().zip(up).zip(grad)) {
            let s = sigmoid(*g);
            *du = d * g * s;
            *dg = d * u * s * (1.0 + g * (1.0 - s));
        }
    }
}
