//! What happens to queries, keys and values between their projection and attention: bias, RMSNorm per head,
//! rotary position, scale.

use super::gemm::inverse_rms;
use super::simd::{Kernel, Simd};
use crate::tower::rope::Rope;

/// Works in place on `[rows, stride]`, whose first `heads * dim` columns are the heads to turn.
pub(crate) struct PrepareHeads<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) heads: usize,
    pub(crate) dim: usize,
    /// Position of every row in its sequence.
    pub(crate) positions: &'a [u32],
    /// Added to all `stride` columns.
    pub(crate) bias: Option<&'a [f32]>,
    /// Weight and epsilon of the RMSNorm of each head.
    pub(crate) norm: Option<(&'a [f32], f32)>,
    pub(crate) rope: &'a Rope,
    /// Multiplies the heads: 1 / sqrt(dim) for queries, 1 for keys.
    pub(crate) scale: f32,
}

impl Kernel for PrepareHeads<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, stride, heads, dim, positions, bias, norm, rope, scale } = self;
        for (row, position) in x.chunks_exact_mut(stride).zip(positions) {
            if let Some(bias) = bias {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
            let (cos, sin) = rope.at(*position as usize);
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
