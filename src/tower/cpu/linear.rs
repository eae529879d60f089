//! A linear layer of the CPU tower: packed weights of one arithmetic class, and the activations they take.

use super::buffer::Buffer;
use super::gemm::{Gemm, PackRows, Packed, Rows, Then};
use super::simd::Isa;

/// Weights of one layer (or of several that share their input), packed for this machine.
pub(crate) enum Linear {
    /// 32-bit floats.
    F32(Packed),
}

/// Packed activations and partial sums, reused by all layers of a worker.
pub(crate) struct Activations {
    rows: Rows,
    partial: Buffer,
}

impl Activations {
    pub(crate) fn new() -> Self {
        Self { rows: Rows::new(), partial: Buffer::zeros(0) }
    }
}

impl Linear {
    /// Matrices `[n_i, k]` that share their input, one below the other.
    pub(crate) fn stack(isa: Isa, parts: &[&[f32]], k: usize) -> Self {
        Self::F32(Packed::stack(isa, parts, k))
    }

    /// Gate and up projection, whose product is `silu(gate) * up`.
    pub(crate) fn gate_up(isa: Isa, gate: &[f32], up: &[f32], k: usize) -> Self {
        Self::F32(Packed::gate_up(isa, gate, up, k))
    }

    /// Takes `m` rows of input, RMS-normalised first where `norm` gives weight and epsilon.
    pub(crate) fn prepare(
        &self,
        isa: Isa,
        x: &[f32],
        m: usize,
        norm: Option<(&[f32], f32)>,
        to: &mut Activations,
    ) {
        match self {
            Self::F32(weights) => {
                isa.run(PackRows { x, m, k: weights.k, norm, to: &mut to.rows });
            }
        }
    }

    /// Multiplies the rows prepared last (for this layer or one of the same input) into `c`, `[m, n]`.
    pub(crate) fn apply(
        &self,
        isa: Isa,
        from: &mut Activations,
        m: usize,
        c: &mut [f32],
        then: Then,
    ) {
        match self {
            Self::F32(b) => {
                isa.run(Gemm { a: &from.rows, m, b, c, then, partial: &mut from.partial });
            }
        }
    }
}
