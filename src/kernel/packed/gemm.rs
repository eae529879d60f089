//! f32 matrix product with weights packed once, at load.
//!
//! Every element of the result is one chain of fused multiply-adds over k in ascending order, whatever the
//! number of rows and wherever its row is in the tile: a row's bits do not depend on its neighbours. That is
//! what makes the tower batch-invariant to the last bit.

use super::super::buffer::Buffer;
use super::super::prefetch::Ahead;
use super::super::simd::{Isa, Kernel, Simd, kernel};
use super::panels::{Layout, PANELS, Then, finish, rows};

/// Longest stretch of k worked off at once: a tile of rows this long fits the first-level cache.
const K_BLOCK: usize = 768;

/// Weights as panels `[panels][k][panel]`, zero-padded.
pub struct Packed {
    data: Buffer,
    pub layout: Layout,
}

impl Packed {
    /// Packs row-major matrices `[n_i, k]` one below the other.
    pub fn new(layout: Layout, parts: &[&[f32]]) -> Self {
        let (k, panel) = (layout.k, layout.panel());
        let mut data = Buffer::zeros(layout.panels() * k * panel);
        for (at, row) in parts.iter().flat_map(|part| part.chunks_exact(k)).enumerate() {
            let (p, column) = layout.place(at);
            for (to, from) in data[p * k * panel + column..].iter_mut().step_by(panel).zip(row) {
                *to = *from;
            }
        }
        Self { data, layout }
    }
}

/// Activations as tiles `[ceil(m / rows)][k][rows]`.
#[derive(Default)]
pub struct Rows {
    data: Buffer,
}

kernel! {
    /// Packs `m` rows of `x` (`[m, k]`), RMS-normalised first where `norm` gives weight and epsilon.
    pub fn pack_rows<'a, S: Simd>(
        isa: Isa, x: &'a [f32], m: usize, k: usize, norm: Option<(&'a [f32], f32)>, to: &'a mut Rows,
    ) {
        let tiles = m.div_ceil(S::ROWS);
        to.data.reserve(tiles * S::ROWS * k + SLACK);
        for (tile, rows) in x[..m * k].chunks(S::ROWS * k).enumerate() {
            let to = &mut to.data[tile * S::ROWS * k..];
            pack_tile::<S>(rows, k, k, S::ROWS, S::ROWS, norm, to);
        }
    }
}

/// What [`pack_tile`] may write behind its tile.
pub const SLACK: usize = 16;

/// Rows (`stride` apart, `k` long, at most `rows`; missing ones are zero) to columns: element c of row i goes to
/// `to[c * step + i]`. `to` has SLACK elements behind the tile, which are overwritten.
#[inline(always)]
pub fn pack_tile<S: Simd>(
    x: &[f32],
    stride: usize,
    k: usize,
    rows: usize,
    step: usize,
    norm: Option<(&[f32], f32)>,
    to: &mut [f32],
) {
    let count = x.len().div_ceil(stride).min(rows);
    assert!(to.len() >= k * step + SLACK && rows <= step && x.len() >= (count - 1) * stride + k);
    let mut inverse = [1f32; 32];
    if let Some((weight, eps)) = norm {
        assert!(weight.len() >= k);
        for (i, inverse) in inverse.iter_mut().enumerate().take(count) {
            *inverse = inverse_rms::<S>(&x[i * stride..i * stride + k], eps);
        }
    }
    let whole = k / S::LANES * S::LANES;
    for first in (0..rows).step_by(S::LANES) {
        let block = S::LANES.min(count.saturating_sub(first));
        for column in (0..whole).step_by(S::LANES) {
            // SAFETY: whole vectors of existing rows (asserted above); what a store writes beyond `rows` is
            // overwritten by the next column or is in the slack.
            unsafe {
                let mut v = [S::splat(0.); 16];
                for (i, v) in v.iter_mut().enumerate().take(block) {
                    *v = S::load(x.as_ptr().add((first + i) * stride + column));
                    if let Some((weight, _)) = norm {
                        *v = S::mul(*v, S::splat(inverse[first + i]));
                        *v = S::mul(*v, S::load(weight.as_ptr().add(column)));
                    }
                }
                S::interleave(&v, to.as_mut_ptr().add(column * step + first), step);
            }
        }
    }
    for column in whole..k {
        for i in 0..rows {
            let value = if i < count { x[i * stride + column] } else { 0. };
            let weight = norm.map_or(1., |(weight, _)| weight[column]);
            to[column * step + i] = value * inverse[i] * weight;
        }
    }
}

/// 1 / sqrt(mean(x^2) + eps)
#[inline(always)]
pub fn inverse_rms<S: Simd>(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = x.len() / S::LANES * S::LANES;
    // SAFETY: whole vectors only, and LANES <= 16.
    unsafe {
        let mut sum = S::splat(0.);
        for at in (0..whole).step_by(S::LANES) {
            let v = S::load(x.as_ptr().add(at));
            sum = S::fma(v, v, sum);
        }
        S::store(lanes.as_mut_ptr(), sum);
    }
    let sum: f32 = lanes.iter().sum::<f32>() + x[whole..].iter().map(|x| x * x).sum::<f32>();
    1. / (sum / x.len() as f32 + eps).sqrt()
}

kernel! {
    /// c = a b for packed a and b; `c` is `[m, n]`. For gate and up: c = f(a gate) * (a up). `partial` is for the
    /// sums between blocks of k.
    pub fn multiply<'a, S: Simd>(
        isa: Isa, a: &'a Rows, m: usize, b: &'a Packed, c: &'a mut [f32], then: Then,
        partial: &'a mut Buffer,
    ) {
        let (k, n, panel) = (b.layout.k, b.layout.n, b.layout.panel());
        assert!(panel == 2 * S::LANES && c.len() >= m * n, "shapes of a packed product");
        assert!(a.data.len() >= m.div_ceil(S::ROWS) * S::ROWS * k, "rows of a packed product");
        let blocks = k.div_ceil(K_BLOCK);
        let block = k.div_ceil(blocks);
        let padded = m.div_ceil(S::ROWS) * S::ROWS;
        if blocks > 1 {
            partial.reserve(PANELS * padded * panel);
        }
        let group_len = PANELS * k * panel;
        for (group, weights) in b.data.chunks(group_len).enumerate() {
            let after = if S::AHEAD { &b.data[group * group_len + weights.len()..] } else { &[] };
            let shares = blocks * m.div_ceil(S::ROWS) * PANELS;
            let mut ahead = Ahead::new(after, group_len, shares);
            for first in (0..k).step_by(block) {
                let length = block.min(k - first);
                let place = Place { start: first == 0, end: first + length == k };
                for row in (0..m).step_by(S::ROWS) {
                    let count = S::ROWS.min(m - row);
                    for (p, weights) in weights.chunks_exact(k * panel).enumerate() {
                        let target = b.layout.target(group * PANELS + p, then);
                        ahead.ask();
                        // SAFETY: the asserts above bound a, c and partial; weights is one whole panel.
                        unsafe {
                            let a = a.data.as_ptr().add(row * k + first * S::ROWS);
                            let b = weights.as_ptr().add(first * panel);
                            let c = c.as_mut_ptr().add(row * n + target.column);
                            let partial = if blocks > 1 {
                                partial.as_mut_ptr().add((p * padded + row) * panel)
                            } else {
                                std::ptr::null_mut()
                            };
                            rows!(S, count, M => {
                                let mut sums = if place.start {
                                    [[S::splat(0.); 2]; M]
                                } else {
                                    load_partial::<S, M>(partial)
                                };
                                tile::<S, M>(length, a, S::ROWS, b, panel, &mut sums);
                                if place.end {
                                    finish::<S, M>(&sums, c, &target);
                                } else {
                                    store_partial::<S, M>(&sums, partial);
                                }
                            });
                        }
                    }
                }
            }
        }
    }
}

struct Place {
    start: bool,
    end: bool,
}

/// sums[i] += sum over p of a[p * a_step + i] * b[p * b_step ..][two vectors], p ascending.
///
/// # Safety
/// a and b are valid for `k` steps; below `Isa::run`.
#[inline(always)]
pub unsafe fn tile<S: Simd, const M: usize>(
    k: usize,
    mut a: *const f32,
    a_step: usize,
    mut b: *const f32,
    b_step: usize,
    sums: &mut [[S::V; 2]; M],
) {
    let mut acc = *sums;
    for _ in 0..k {
        // SAFETY: the caller vouches for k steps.
        unsafe {
            let b0 = S::load(b);
            let b1 = S::load(b.add(S::LANES));
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = S::splat(*a.add(i));
                acc[0] = S::fma(x, b0, acc[0]);
                acc[1] = S::fma(x, b1, acc[1]);
            }
            a = a.add(a_step);
            b = b.add(b_step);
        }
    }
    *sums = acc;
}

/// # Safety
/// `from` holds M rows of two vectors.
#[inline(always)]
unsafe fn load_partial<S: Simd, const M: usize>(from: *const f32) -> [[S::V; 2]; M] {
    // SAFETY: the caller vouches for the memory.
    unsafe {
        let mut sums = [[S::splat(0.); 2]; M];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = [S::load(from.add(2 * i * S::LANES)), S::load(from.add((2 * i + 1) * S::LANES))];
        }
        sums
    }
}

/// # Safety
/// `to` holds M rows of two vectors.
#[inline(always)]
unsafe fn store_partial<S: Simd, const M: usize>(sums: &[[S::V; 2]; M], to: *mut f32) {
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: the caller vouches for the memory.
        unsafe {
            S::store(to.add(2 * i * S::LANES), sum[0]);
            S::store(to.add((2 * i + 1) * S::LANES), sum[1]);
        }
    }
}
