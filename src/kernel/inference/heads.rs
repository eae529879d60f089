//! What happens to queries, keys and values between their projection and attention: bias, RMSNorm per head,
//! rotary position, scale.

use super::super::packed::inverse_rms;
use super::super::simd::{Isa, Kernel, Simd};

/// Works in place on `[rows, stride]`, whose first `heads * dim` columns are the heads to turn.
pub struct PrepareHeads<'a> {
    /// The rows.
    pub x: &'a mut [f32],
    /// Width of a row.
    pub stride: usize,
    /// How many heads are turned.
    pub heads: usize,
    /// Width of one head.
    pub dim: usize,
    /// Position of every row in its sequence.
    pub positions: &'a [u32],
    /// Added to all `stride` columns.
    pub bias: Option<&'a [f32]>,
    /// Weight and epsilon of the RMSNorm of each head.
    pub norm: Option<(&'a [f32], f32)>,
    /// Cosines and sines of every position's rotation, each `[positions, dim / 2]`.
    pub rope: (&'a [f32], &'a [f32]),
    /// Multiplies the heads: 1 / sqrt(dim) for queries, 1 for keys.
    pub scale: f32,
}

impl PrepareHeads<'_> {
    /// Prepares them.
    pub fn apply(self, isa: Isa) {
        isa.run(self);
    }
}

impl Kernel for PrepareHeads<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, stride, heads, dim, positions, bias, norm, rope, scale } = self;
        for (row, position) in x.chunks_exact_mut(stride).zip(positions) {
            if let Some(bias) = bias {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
            let angles = *position as usize * (dim / 2)..(*position as usize + 1) * (dim / 2);
            let (cos, sin) = (&rope.0[angles.clone()], &rope.1[angles]);
            for head in row[..heads * dim].chunks_exact_mut(dim) {
                if let Some((weight, eps)) = norm {
                    let inverse = inverse_rms::<S>(head, eps);
                    head.iter_mut().zip(weight).for_each(|(x, w)| *x *= inverse * w);
                }
                let (left, right) = head.split_at_mut(dim / 2);
                for (((l, r), c), s) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    let (a, b) = (*l * scale, *r * scale);
                    *l = a * c - b * s;
                    *r = b * c + a * s;
                }
            }
        }
    }
}
