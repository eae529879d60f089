//! Attention over packed sequences, each query on the keys of its window, one sequence and key/value head at a time.
//!
//! Scores are kept transposed, `[keys][queries]`, with one vector lane per query: maximum, exponential and sum
//! then go down the keys without any sideways step, and each query's result is a function of its own sequence
//! alone, in a fixed order.

use super::super::buffer::Buffer;
use super::super::packed::{SLACK, pack_tile, rows, tile};
use super::super::simd::{Isa, Kernel, Simd};
use super::super::window::Window;
use super::bias::DistanceBias;

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
    /// The keys that a query sees.
    pub window: Window,
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

/// Added to scores. Loaded at `32 - j`: the first j lanes of two vectors are masked, respectively all but the first j.
const MINUS_FIRST: [f32; 64] = half([f32::NEG_INFINITY, 0.]);
const MINUS_REST: [f32; 64] = half([0., f32::NEG_INFINITY]);
/// The same to multiply probabilities by.
const KEEP_REST: [f32; 64] = half([0., 1.]);
const KEEP_FIRST: [f32; 64] = half([1., 0.]);

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
        isa.run(Biased { attention: self, bias: None });
    }

    /// The same with `bias` added to the scores.
    pub fn apply_with(self, isa: Isa, bias: Option<&DistanceBias>) {
        isa.run(Biased { attention: self, bias });
    }
}

struct Biased<'a, 'b> {
    attention: Attention<'a>,
    bias: Option<&'b DistanceBias>,
}

impl Kernel for Biased<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { attention, bias } = self;
        let Attention { q, kv, out, spans, heads, window, scratch } = attention;
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
                        let queries = Queries { first: first_position + block, count, window };
                        // SAFETY: scratch has room for span.len keys (reserved above) and `out` for the rows
                        // of this block (asserted above); they are queries of the sequence, a panel at most.
                        unsafe {
                            let out = out.as_mut_ptr().add(row);
                            let bias = bias.map(|bias| (bias, head));
                            attend::<S>(queries, span.len, dim, bias, scratch, out, width);
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

/// Neighbouring queries, one to a lane.
#[derive(Clone, Copy)]
struct Queries {
    /// Position of the first.
    first: usize,
    count: usize,
    window: Window,
}

impl Queries {
    /// What to add to their scores against `key`, from lane `lane` on.
    ///
    /// # Safety
    /// Below `Isa::run`; at least one of them sees the key; `lane` is that of one of two vectors.
    #[inline(always)]
    unsafe fn minus<S: Simd>(self, key: usize, lane: usize) -> S::V {
        let (before, after) = self.edges(key);
        // SAFETY: the tables have 64 elements, both edges are at most 32.
        unsafe {
            let first = S::load(MINUS_FIRST.as_ptr().add(32 - before + lane));
            S::add(first, S::load(MINUS_REST.as_ptr().add(32 - after + lane)))
        }
    }

    /// What to multiply their probabilities by.
    ///
    /// # Safety
    /// As [`Queries::minus`].
    #[inline(always)]
    unsafe fn keep<S: Simd>(self, key: usize, lane: usize) -> S::V {
        let (before, after) = self.edges(key);
        // SAFETY: the tables have 64 elements, both edges are at most 32.
        unsafe {
            let rest = S::load(KEEP_REST.as_ptr().add(32 - before + lane));
            S::mul(rest, S::load(KEEP_FIRST.as_ptr().add(32 - after + lane)))
        }
    }

    /// The lanes that see `key`: from the first on, up to the second.
    #[inline(always)]
    fn edges(self, key: usize) -> (usize, usize) {
        let from = key.saturating_sub(self.first.saturating_add(self.window.after));
        let to = key.saturating_add(self.window.before).saturating_add(1) - self.first;
        (from.min(32), to.min(32))
    }
}

/// Queries against their keys.
///
/// # Safety
/// Scratch is packed for `len` keys, and for the queries, which are at most a panel and of positions below `len`; `out` has
/// a row of `dim` elements for each, `stride` apart.
#[inline(always)]
unsafe fn attend<S: Simd>(
    queries: Queries,
    len: usize,
    dim: usize,
    bias: Option<(&DistanceBias, usize)>,
    scratch: &mut Scratch,
    out: *mut f32,
    stride: usize,
) {
    let panel = 2 * S::LANES;
    let Queries { first, count, window } = queries;
    let (low, high) = (window.keys(first, len), window.keys(first + count - 1, len));
    // Keys that some query sees, and among them those that all do.
    let (start, end) = (low.start, high.end);
    let inner = high.start.min(end);
    let outer = low.end.max(inner);
    let scores = scratch.scores.as_mut_ptr();
    // SAFETY: the caller vouches for the sizes; a row of the bias has 32 elements. A key from `start` to `end` is seen by one
    // of the queries: windows of
    // neighbours overlap or touch.
    unsafe {
        for key in (start - start % S::ROWS..end).step_by(S::ROWS) {
            let a = scratch.keys.as_ptr().add(key * dim);
            let rows = S::ROWS.min(end - key);
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
        if let Some((bias, head)) = bias {
            for key in start..end {
                let added = bias.row(head, first, key).as_ptr();
                for lane in [0, S::LANES] {
                    let at = scores.add(key * panel + lane);
                    S::store(at, S::add(S::load(at), S::load(added.add(lane))));
                }
            }
        }
        let mut inverse = [0f32; 32];
        for lane in [0, S::LANES] {
            let mut top = S::splat(f32::NEG_INFINITY);
            for key in start..inner {
                let score = S::load(scores.add(key * panel + lane));
                top = S::max(top, S::add(queries.minus::<S>(key, lane), score));
            }
            for key in inner..outer {
                top = S::max(top, S::load(scores.add(key * panel + lane)));
            }
            // Behind what all see, keys are beyond the windows of the first queries, and of no other.
            for key in outer..end {
                let mask = S::load(MINUS_FIRST.as_ptr().add(32 + low.end - (key + 1) + lane));
                top = S::max(top, S::add(mask, S::load(scores.add(key * panel + lane))));
            }
            let minus_top = S::mul(top, S::splat(-1.));
            let mut sum = S::splat(0.);
            for key in start..inner {
                let at = scores.add(key * panel + lane);
                let value = S::exp(S::add(S::load(at), minus_top));
                let value = S::mul(queries.keep::<S>(key, lane), value);
                S::store(at, value);
                sum = S::add(sum, value);
            }
            for key in inner..outer {
                let at = scores.add(key * panel + lane);
                let value = S::exp(S::add(S::load(at), minus_top));
                S::store(at, value);
                sum = S::add(sum, value);
            }
            for key in outer..end {
                let at = scores.add(key * panel + lane);
                let keep = S::load(KEEP_REST.as_ptr().add(32 + low.end - (key + 1) + lane));
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
                let values = column / panel * len * panel + start * panel;
                let values = scratch.values.as_ptr().add(values);
                rows!(S, rows, M => {
                    let mut sums = [[S::splat(0.); 2]; M];
                    let scores = scores.add(start * panel + query);
                    tile::<S, M>(end - start, scores, panel, values, panel, &mut sums);
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { heads: 4, kv_heads: 2, dim: 10 };
    const LENGTHS: [usize; 6] = [1, 5, 33, 16, 97, 70];

    fn value(i: usize) -> f32 {
        ((i * 7919 % 4093) as f32 - 2046.) / 900.
    }

    /// Attention of one head's query, in f64.
    fn exact(q: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
        let dot = |k: &[f32]| -> f64 {
            q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
        };
        let scores: Vec<f64> = keys.iter().map(|k| dot(k)).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let sum: f64 = shares.iter().sum();
        let one =
            |d: usize| shares.iter().zip(values).map(|(p, v)| p * f64::from(v[d])).sum::<f64>();
        (0..q.len()).map(|d| one(d) / sum).collect()
    }

    #[test]
    fn a_query_sees_the_keys_of_its_window() {
        let (dim, width, kv_width) =
            (HEADS.dim, HEADS.heads * HEADS.dim, 2 * HEADS.kv_heads * HEADS.dim);
        let total: usize = LENGTHS.iter().sum();
        let q: Vec<f32> = (0..total * width).map(|i| value(i) / 3.).collect();
        let kv: Vec<f32> = (0..total * kv_width).map(|i| value(3 * i + 1)).collect();
        let around = |before, after| Window { before, after };
        let windows = [
            Window::CAUSAL,
            Window::FULL,
            around(0, 0),
            around(3, 0),
            around(5, 5),
            around(31, 0),
            around(40, 40),
            around(0, usize::MAX),
            around(usize::MAX, 7),
        ];
        for isa in Isa::available() {
            for window in windows {
                let mut scratch = Scratch::default();
                let mut run = |spans: &[Span], q: &[f32]| {
                    let mut out = vec![0f32; q.len()];
                    let (kv, out_rows, scratch) = (&kv[..], &mut out[..], &mut scratch);
                    Attention { q, kv, out: out_rows, spans, heads: HEADS, window, scratch }
                        .apply(isa);
                    out
                };
                let mut spans = Vec::new();
                let mut start = 0;
                for len in LENGTHS {
                    spans.push(Span { start, len, query_start: start, queries: len });
                    start += len;
                }
                let out = run(&spans, &q);
                for span in &spans {
                    for position in 0..span.len {
                        let seen = window.keys(position, span.len);
                        assert!(seen.contains(&position) && seen.len() <= window.most(span.len));
                        for head in 0..HEADS.heads {
                            let kv_head = head / 2 * dim;
                            let rows = |at: usize| -> Vec<&[f32]> {
                                let row =
                                    |key: usize| &kv[(span.start + key) * kv_width + at..][..dim];
                                seen.clone().map(row).collect()
                            };
                            let at = (span.start + position) * width + head * dim;
                            let expected = exact(
                                &q[at..][..dim],
                                &rows(kv_head),
                                &rows(kv_width / 2 + kv_head),
                            );
                            for (a, b) in out[at..][..dim].iter().zip(expected) {
                                let apart = (f64::from(*a) - b).abs();
                                assert!(
                                    apart < 2e-5,
                                    "{isa:?} {window:?} {position} of {}: {a} {b}",
                                    span.len
                                );
                            }
                        }
                    }
                    // The last position alone has the same bits.
                    let last = [Span { query_start: 0, queries: 1, ..*span }];
                    let at = (span.start + span.len - 1) * width;
                    assert_eq!(
                        run(&last, &q[at..][..width]),
                        &out[at..][..width],
                        "{isa:?} {window:?}"
                    );
                }
            }
        }
    }
}
