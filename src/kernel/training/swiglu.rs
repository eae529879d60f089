//! SwiGLU, with its way back.

use rayon::prelude::*;

use super::super::elementary::exp;
use super::super::simd::{Isa, Kernel, Simd};
use super::task::NUMBERS;

/// `y = silu(gate) * up`.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let blocks = y.par_chunks_mut(NUMBERS).zip(gate.par_chunks(NUMBERS));
    blocks.zip(up.par_chunks(NUMBERS)).for_each(|((y, gate), up)| {
        Isa::best().run(Forward { gate, up, y });
    });
}

/// The gradients of gate and up from `grad`, that of the result.
pub fn backward((gate, up, grad): (&[f32], &[f32], &[f32]), dgate: &mut [f32], dup: &mut [f32]) {
    let outputs = dgate.par_chunks_mut(NUMBERS).zip(dup.par_chunks_mut(NUMBERS));
    let inputs = gate.par_chunks(NUMBERS).zip(up.par_chunks(NUMBERS));
    let blocks = outputs.zip(inputs).zip(grad.par_chunks(NUMBERS));
    blocks.for_each(|(((dgate, dup), (gate, up)), grad)| {
        Isa::best().run(Backward { gate, up, grad, dgate, dup });
    });
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

struct Forward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        for ((y, g), u) in self.y.iter_mut().zip(self.gate).zip(self.up) {
            *y = g * sigmoid(*g) * u;
        }
    }
}

struct Backward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    grad: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let outputs = self.dgate.iter_mut().zip(self.dup);
        let inputs = self.gate.iter().zip(self.up).zip(self.grad);
        for ((dg, du), ((g, u), d)) in outputs.zip(inputs) {
            let s = sigmoid(*g);
            *du = d * g * s;
            *dg = d * u * s * (1.0 + g * (1.0 - s));
        }
    }
}
