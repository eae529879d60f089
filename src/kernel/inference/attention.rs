//! Attention over packed sequences, causal or in both directions, one sequence and key/value head at a time.
//!
//! Scores are kept transposed, `[keys][queries]`, with one vector lane per query: maximum, exponential and sum
//! then go down the keys without any sideways step, and each query's result is a function of its own sequence
//! alone, in a fixed order.

use super::super::buffer::Buffer;
use super::super::packed::{SLACK, pack_tile, rows, tile};
use super::super::simd::{Isa, Kernel, Simd};

/// One sequence in the packed buffers.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Its first row of keys and values.
    pub start: usize,
    /// Its keys.
    pub len: usize,
    /// Its first row of queries.
    pub query_start: usize,
    /// Its queries: all, or only the last position.
    pub queries: usize,
}

/// Widths of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values, each shared by as many query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub dim: usize,
}

/// Working memory, grown to the longest sequence seen.
#[derive(Default)]
pub struct Scratch {
    keys: Buffer,
    values: Buffer,
    queries: Buffer,
    scores: Buffer,
}

/// `out[query] = softmax(q k^T) v`. `q` is `[queries, heads * dim]`, already scaled; `kv` is
/// `[rows, 2 * kv_heads * dim]`, keys first; `out` is like `q`.
pub struct Attention<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys and values.
    pub kv: &'a [f32],
    /// The result.
    pub out: &'a mut [f32],
    /// The sequences.
    pub spans: &'a [Span],
    /// Their heads.
    pub heads: Heads,
    /// Whether a query sees only the keys up to its own position.
    pub causal: bool,
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

/// Loaded at `32 - j`: the first j lanes of two vectors are masked.
const MINUS: [f32; 64] = half([f32::NEG_INFINITY, 0.]);
const KEEP: [f32; 64] = half([0., 1.]);

const fn half(values: [f32; 2]) -> [f32; 64] {
    let mut table = [values[0]; 64];
    let mut at = 32;
    while at < 64 {
        table[at] = values[1];
        at += 1;
    }
    table
}

impl Attention<'_> {
    /// Computes `out`.
    pub fn apply(self, isa: Isa) {
        isa.run(self);
    }
}

impl Kernel for Attention<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { q, kv, out, spans, heads, causal, scratch } = self;
        let panel = 2 * S::LANES;
        let (dim, kv_width) = (heads.dim, 2 * heads.kv_heads * heads.dim);
        let width = heads.heads * dim;
        let group = heads.heads / heads.kv_heads;
        let panels = dim.div_ceil(panel);
        scratch.queries.reserve(dim * panel + SLACK);
        for span in spans {
            assert!(kv.len() >= (span.start + span.len) * kv_width, "key rows");
            assert!(q.len() >= (span.query_start + span.queries) * width, "query rows");
            assert!(out.len() >= (span.query_start + span.queries) * width, "result rows");
            assert!(span.queries <= span.len, "no query without its key");
            let tiles = span.len.div_ceil(S::ROWS);
            scratch.keys.reserve(tiles * S::ROWS * dim + SLACK);
            scratch.values.reserve(panels * span.len * panel);
            scratch.scores.reserve(tiles * S::ROWS * panel);
            let first_position = span.len - span.queries;
            for kv_head in 0..heads.kv_heads {
                let at = kv_head * dim;
                let rows = &kv[span.start * kv_width..][..span.len * kv_width];
                pack_heads::<S>(rows, kv_width, at, dim, span.len, scratch);
                for head in kv_head * group..(kv_head + 1) * group {
                    for block in (0..span.queries).step_by(panel) {
                        let count = panel.min(span.queries - block);
                        let row = (span.query_start + block) * width + head * dim;
                        let rows = &q[row..][..(count - 1) * width + dim];
                        pack_tile::<S>(rows, width, dim, panel, panel, None, &mut scratch.queries);
                        // SAFETY: scratch has room for span.len keys (reserved above) and `out` for the rows
                        // of this block (asserted above).
                        unsafe {
                            let out = out.as_mut_ptr().add(row);
                            // From the last position on every key is seen.
                            let first = if causal { first_position + block } else { span.len - 1 };
                            attend::<S>(first, count, span.len, dim, scratch, out, width);
                        }
                    }
                }
            }
        }
    }
}

/// Keys into tiles `[tiles][dim][ROWS]`, values into panels `[panels][len][panel]`, zero-padded.
#[inline(always)]
fn pack_heads<S: Simd>(
    kv: &[f32],
    stride: usize,
    at: usize,
    dim: usize,
    len: usize,
    scratch: &mut Scratch,
) {
    let panel = 2 * S::LANES;
    for (tile, rows) in kv.chunks(S::ROWS * stride).enumerate() {
        let to = &mut scratch.keys[tile * S::ROWS * dim..];
        pack_tile::<S>(&rows[at..], stride, dim, S::ROWS, S::ROWS, None, to);
    }
    let value = stride / 2 + at;
    for (row, kv) in kv.chunks_exact(stride).enumerate() {
        for (p, part) in kv[value..value + dim].chunks(panel).enumerate() {
            let to = &mut scratch.values[(p * len + row) * panel..][..panel];
            to[..part.len()].copy_from_slice(part);
            to[part.len()..].fill(0.);
        }
    }
}

/// `count` queries from position `first` on against their keys.
///
/// # Safety
/// Scratch is packed for `len` keys; `out` has `count` rows of `dim` elements, `stride` apart.
#[inline(always)]
unsafe fn attend<S: Simd>(
    first: usize,
    count: usize,
    len: usize,
    dim: usize,
    scratch: &mut Scratch,
    out: *mut f32,
    stride: usize,
) {
    let panel = 2 * S::LANES;
    let keys = len.min(first + count);
    let scores = scratch.scores.as_mut_ptr();
    // SAFETY: the caller vouches for the sizes; the masks have 64 elements and j <= 31.
    unsafe {
        for key in (0..keys).step_by(S::ROWS) {
            let a = scratch.keys.as_ptr().add(key * dim);
            let rows = S::ROWS.min(keys - key);
            rows!(S, rows, M => {
                let mut sums = [[S::splat(0.); 2]; M];
                tile::<S, M>(dim, a, S::ROWS, scratch.queries.as_ptr(), panel, &mut sums);
                for (i, sum) in sums.iter().enumerate() {
                    let to = scores.add((key + i) * panel);
                    S::store(to, sum[0]);
                    S::store(to.add(S::LANES), sum[1]);
                }
            });
        }
        let mut inverse = [0f32; 32];
        for lane in [0, S::LANES] {
            let mut top = S::splat(f32::NEG_INFINITY);
            for key in 0..=first {
                top = S::max(top, S::load(scores.add(key * panel + lane)));
            }
            for key in first + 1..keys {
                let mask = S::load(MINUS.as_ptr().add(32 - (key - first) + lane));
                top = S::max(top, S::add(mask, S::load(scores.add(key * panel + lane))));
            }
            let minus_top = S::mul(top, S::splat(-1.));
            let mut sum = S::splat(0.);
            for key in 0..=first {
                let at = scores.add(key * panel + lane);
                let value = S::exp(S::add(S::load(at), minus_top));
                S::store(at, value);
                sum = S::add(sum, value);
            }
            for key in first + 1..keys {
                let at = scores.add(key * panel + lane);
                let keep = S::load(KEEP.as_ptr().add(32 - (key - first) + lane));
                let value = S::mul(keep, S::exp(S::add(S::load(at), minus_top)));
                S::store(at, value);
                sum = S::add(sum, value);
            }
            S::store(inverse.as_mut_ptr().add(lane), S::div(S::splat(1.), sum));
        }
        // Queries in about equal parts, so that none is left with a tile of one or two rows.
        let part = count.div_ceil(count.div_ceil(S::ROWS));
        for query in (0..count).step_by(part) {
            let rows = part.min(count - query);
            for column in (0..dim).step_by(panel) {
                let values = scratch.values.as_ptr().add(column / panel * len * panel);
                rows!(S, rows, M => {
                    let mut sums = [[S::splat(0.); 2]; M];
                    tile::<S, M>(keys, scores.add(query), panel, values, panel, &mut sums);
                    for (i, sum) in sums.iter().enumerate() {
                        let scale = S::splat(inverse[query + i]);
                        let mut row = [0f32; 32];
                        S::store(row.as_mut_ptr(), S::mul(sum[0], scale));
                        S::store(row.as_mut_ptr().add(S::LANES), S::mul(sum[1], scale));
                        let to = out.add((query + i) * stride + column);
                        std::ptr::copy_nonoverlapping(row.as_ptr(), to, panel.min(dim - column));
                    }
                });
            }
        }
    }
}
