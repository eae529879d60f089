//! What follows a product: its bias, a scale or an activation.

use super::super::elementary::{Activation, exp, normal};
use super::super::simd::{Isa, Kernel, Simd, kernel};

kernel! {
    /// `x = scale (x + bias)`, row by row.
    pub fn add_bias<'a, S: Simd>(isa: Isa, x: &'a mut [f32], bias: &'a [f32], scale: f32) {
        each(x, bias, |x| x * scale);
    }
}

kernel! {
    /// `x = activation(x + bias)`, row by row.
    pub fn activate<'a, S: Simd>(
        isa: Isa, x: &'a mut [f32], bias: &'a [f32], activation: Activation,
    ) {
        match activation {
            Activation::Gelu => gelu::<S>(x, bias),
            // x times the logistic function of twice the tangent's argument.
            Activation::GeluTanh => {
                each(x, bias, |x| x / (1.0 + exp(-1.595_769 * (x + 0.044_715 * x * x * x))))
            }
            Activation::Relu => each(x, bias, |x| x.max(0.0)),
            Activation::Silu => each(x, bias, |x| x / (1.0 + exp(-x))),
        }
    }
}

#[inline(always)]
fn each(x: &mut [f32], bias: &[f32], f: impl Fn(f32) -> f32) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x = f(*x + b);
        }
    }
}

#[inline(always)]
fn gelu<S: Simd>(x: &mut [f32], bias: &[f32]) {
    let whole = bias.len() / S::LANES * S::LANES;
    let (whole_bias, rest_bias) = bias.split_at(whole);
    for row in x.chunks_exact_mut(bias.len()) {
        let (row, rest) = row.split_at_mut(whole);
        let vectors = row.chunks_exact_mut(S::LANES).zip(whole_bias.chunks_exact(S::LANES));
        for (x, b) in vectors {
            // SAFETY: whole vectors, below `Isa::run`.
            unsafe {
                let sum = S::add(S::load(x.as_ptr()), S::load(b.as_ptr()));
                S::store(x.as_mut_ptr(), S::gelu(sum));
            }
        }
        for (x, b) in rest.iter_mut().zip(rest_bias) {
            let sum = *x + b;
            *x = sum * normal(sum).0;
        }
    }
}
