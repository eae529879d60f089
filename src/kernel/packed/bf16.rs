//! Matrix product of bf16 weights and activations, added up in f32.
//!
//! As in f32, an element of the result is one chain of multiply-adds over k, here by pairs in ascending order.

use half::bf16;

use super::super::buffer::Buffer;
use super::super::prefetch::Ahead;
use super::super::simd::{Isa, Kernel, Simd, kernel};
use super::gemm::{SLACK, pack_tile};
use super::panels::{Layout, Then, finish, rows, together};
use super::words::{HIGH, Word, WordKernel, Words, open_rows};

/// Weights as panels `[panels][ceil(k / 2)][panel]` of words.
pub struct Bf16Weights {
    data: Buffer,
    pub layout: Layout,
    pub words: Words,
}

impl Bf16Weights {
    /// Rounds and packs row-major matrices `[n_i, k]` one below the other.
    pub fn new(words: Words, layout: Layout, parts: &[&[f32]]) -> Self {
        Self { data: pack_words(&layout, layout.k.div_ceil(2), parts), layout, words }
    }

    /// The same of one matrix given as its transpose, `[k, n]`.
    pub fn turned(words: Words, layout: Layout, matrix: &[f32]) -> Self {
        Self { data: pack_turned(&layout, layout.k.div_ceil(2), matrix), layout, words }
    }
}

/// Rounds row-major matrices `[n_i, k]` one below the other to panels `[panels][pairs][panel]` of words, zeros behind
/// k.
pub fn pack_words(layout: &Layout, pairs: usize, parts: &[&[f32]]) -> Buffer {
    let panel = layout.panel();
    let mut data = Buffer::zeros(layout.panels() * pairs * panel);
    for (at, row) in parts.iter().flat_map(|part| part.chunks_exact(layout.k)).enumerate() {
        let (p, column) = layout.place(at);
        let to = data[p * pairs * panel + column..].iter_mut().step_by(panel);
        for (to, pair) in to.zip(row.chunks(2)) {
            *to = f32::from_bits(word(pair[0], pair.get(1).copied().unwrap_or(0.)));
        }
    }
    data
}

/// [`pack_words`] of one matrix given as its transpose, row-major `[k, n]`: neighbours along k are in two rows, so
/// whole vectors are rounded at once.
pub fn pack_turned(layout: &Layout, pairs: usize, matrix: &[f32]) -> Buffer {
    assert!(layout.gate.is_none() && matrix.len() == layout.k * layout.n, "one matrix [k, n]");
    let mut data = Buffer::zeros(layout.panels() * pairs * layout.panel());
    round_turned(Isa::best(), layout, pairs, matrix, &mut data);
    data
}

kernel! {
    fn round_turned<'a, S: Simd>(
        isa: Isa, layout: &'a Layout, pairs: usize, matrix: &'a [f32], to: &'a mut [f32],
    ) {
        let (panel, n) = (layout.panel(), layout.n);
        let none = vec![0f32; n];
        for (pair, rows) in matrix.chunks(2 * n).enumerate() {
            let (first, second) = rows.split_at(n);
            let second = if second.is_empty() { &none[..] } else { second };
            for (p, (first, second)) in first.chunks(panel).zip(second.chunks(panel)).enumerate() {
                let to = &mut to[(p * pairs + pair) * panel..][..first.len()];
                for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
                    *to = f32::from_bits(word(*first, *second));
                }
            }
        }
    }
}

/// The bits of an f32 rounded to the nearest bf16, ties to even, in the upper half; NaN stays NaN.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if bits & 0x7fff_ffff > 0x7f80_0000 { u32::from(bf16::NAN.to_bits()) << 16 } else { up }
}

/// Two neighbours along k in one word.
#[inline(always)]
fn word(first: f32, second: f32) -> u32 {
    rounded(first) >> 16 | rounded(second) & HIGH
}

/// Activations as tiles `[tiles][ceil(k / 2)][SPREAD][rows]` of words.
#[derive(Default)]
pub struct Bf16Rows {
    data: Buffer,
    tile: Buffer,
}

kernel! {
    /// Rounds and packs `m` rows of `x` (`[m, k]`), RMS-normalised first where `norm` gives weight and epsilon.
    pub fn round_rows<'a, W: Word>(
        words: Words, x: &'a [f32], m: usize, k: usize, norm: Option<(&'a [f32], f32)>,
        to: &'a mut Bf16Rows,
    ) {
        let (pairs, step, lanes) = (k.div_ceil(2), W::ROWS, W::S::LANES);
        assert!(step <= lanes && lanes <= SLACK);
        let spread = W::SPREAD * step;
        to.data.reserve(m.div_ceil(step) * pairs * spread + SLACK);
        to.tile.reserve(2 * pairs * step + SLACK);
        for (tile, rows) in x[..m * k].chunks(step * k).enumerate() {
            if W::PARTS == 2 {
                // The parts of words are the numbers themselves, which are rounded where they lie.
                let to = &mut to.data[tile * pairs * spread..];
                pack_tile::<W::S>(rows, k, k, step, step, norm, to);
                to[..k * step].iter_mut().for_each(|x| *x = f32::from_bits(rounded(*x) & HIGH));
                to[k * step..2 * pairs * step].fill(0.);
                continue;
            }
            pack_tile::<W::S>(rows, k, k, step, step, norm, &mut to.tile);
            // The pair of an odd last column, and what packing left behind it.
            to.tile[k * step..2 * pairs * step].fill(0.);
            let words = &mut to.data[tile * pairs * spread..];
            for pair in 0..pairs {
                // Whole vectors: what goes beyond the rows is overwritten by the next pair, or slack.
                let first = &to.tile[2 * pair * step..][..lanes];
                let second = &to.tile[(2 * pair + 1) * step..][..lanes];
                for part in 0..W::SPREAD {
                    let words = &mut words[pair * spread + part * step..][..lanes];
                    for ((to, first), second) in words.iter_mut().zip(first).zip(second) {
                        // SAFETY: below `Words::run`.
                        *to = f32::from_bits(unsafe { W::spread(word(*first, *second)) }[part]);
                    }
                }
            }
        }
    }
}

kernel! {
    /// c = a b for packed a and b; `c` is `[m, n]`. For gate and up: c = f(a gate) * (a up). `opened` is for weights that are
    /// opened once for all rows.
    pub fn multiply<'a, W: Word>(
        words: Words, a: &'a Bf16Rows, m: usize, b: &'a Bf16Weights, c: &'a mut [f32], then: Then,
        opened: &'a mut Buffer,
    ) {
        let layout = &b.layout;
        let (pairs, panel) = (layout.k.div_ceil(2), layout.panel());
        let (panel_len, tile_len) = (pairs * panel, pairs * W::SPREAD * W::ROWS);
        assert!(panel == 2 * W::S::LANES && c.len() >= m * layout.n, "shapes of a packed product");
        assert!(a.data.len() >= m.div_ceil(W::ROWS) * tile_len, "rows of a packed product");
        let together = together(panel_len * W::PARTS);
        let group_len = together * panel_len;
        for (group, weights) in b.data.chunks(group_len).enumerate() {
            let after =
                if W::PARTS == 2 { &b.data[group * group_len + weights.len()..] } else { &[] };
            let mut ahead = Ahead::new(after, group_len, m.div_ceil(W::ROWS) * together);
            let weights = if W::PARTS == 2 {
                opened.reserve(2 * group_len);
                // SAFETY: below `Words::run`.
                unsafe { open_rows::<W>(weights, panel, opened) }
            } else {
                weights
            };
            for row in (0..m).step_by(W::ROWS) {
                let count = W::ROWS.min(m - row);
                for (p, weights) in weights.chunks_exact(panel_len * W::PARTS).enumerate() {
                    ahead.ask();
                    let target = layout.target(group * together + p, then);
                    // SAFETY: the asserts above bound a and c; weights is one whole panel.
                    unsafe {
                        let a = a.data.as_ptr().add(row / W::ROWS * tile_len);
                        let c = c.as_mut_ptr().add(row * layout.n + target.column);
                        rows!(W, count, M => {
                            let sums = tile::<W, M>(pairs, a.cast(), weights.as_ptr().cast());
                            finish::<W::S, M>(&sums, c, &target);
                        });
                    }
                }
            }
        }
    }
}

/// M rows of a tile times one panel.
///
/// # Safety
/// a and b are packed for `pairs`, b is opened where its words have parts; below [`Words::run`].
#[inline(always)]
unsafe fn tile<W: Word, const M: usize>(
    pairs: usize,
    mut a: *const u32,
    mut b: *const u32,
) -> [[<W::S as Simd>::V; 2]; M] {
    let lanes = W::S::LANES;
    // SAFETY: the caller vouches for the pairs.
    unsafe {
        let mut sums = [[W::sum(0); 2]; M];
        for _ in 0..pairs * W::PARTS {
            let w0 = W::load(b);
            let w1 = W::load(b.add(lanes));
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = W::splat(a.add(i), W::ROWS);
                sum[0] = W::dot(sum[0], w0, x);
                sum[1] = W::dot(sum[1], w1, x);
            }
            a = a.add(W::SPREAD / W::PARTS * W::ROWS);
            b = b.add(2 * lanes);
        }
        sums.map(|sum| sum.map(|sum| W::float(sum)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[cfg(target_arch = "x86_64")]
    use super::super::gemm;
    use super::super::panels::tests::{any_gate, exact as gated, noise};
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let mut state = 3u64;
        let mut values: Vec<f32> = (0..100_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                f32::from_bits((state >> 32) as u32)
            })
            .collect();
        values.extend([0., -0., 1., f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE]);
        values.push(f32::from_bits(0x3f80_8000));
        values.push(f32::from_bits(0x3f81_8000));
        for x in values {
            let ours = bf16::from_bits((rounded(x) >> 16) as u16);
            let theirs = bf16::from_f32(x);
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{x}"
            );
        }
    }

    /// Opened words take the way of f32: the same chain of multiply-adds, so the same bits.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn opened_words_are_f32_products_of_rounded_numbers() {
        let wide = [(Words::Bf16WideAvx2, Isa::Avx2), (Words::Bf16WideAvx512, Isa::Avx512)];
        let round = |x: f32| bf16::from_f32(x).to_f32();
        let values = |len: usize, from: usize| -> Vec<f32> {
            (0..len).map(|i| round(((i + from) * 7919 % 2003) as f32 / 1001.5 - 1.)).collect()
        };
        for (words, isa) in wide.into_iter().filter(|(_, isa)| Isa::available().contains(isa)) {
            for (m, n, k) in [(1, 40, 33), (6, 16, 576), (29, 150, 1601)] {
                let (x, weights) = (values(m * k, 5), values(n * k, 11));
                let layout = Layout { k, n, lanes: words.lanes(), gate: None };
                let (mut c, mut scratch) = (vec![0f32; m * n], Buffer::default());
                let mut a = Bf16Rows::default();
                round_rows(words, &x, m, k, None, &mut a);
                let b = Bf16Weights::new(words, layout, &[&weights]);
                multiply(words, &a, m, &b, &mut c, Then::Store, &mut scratch);
                let (mut expected, mut rows) = (vec![0f32; m * n], gemm::Rows::default());
                gemm::pack_rows(isa, &x, m, k, None, &mut rows);
                let b = gemm::Packed::new(layout, &[&weights]);
                gemm::multiply(isa, &rows, m, &b, &mut expected, Then::Store, &mut scratch);
                assert_eq!(c, expected, "{words:?} {m} {n} {k}");
            }
        }
    }

    proptest! {
        #[test]
        fn products_of_rounded_numbers(
            m in 1usize..30, n in 1usize..150, k in 1usize..90, seed in any::<u64>(), gate in any_gate(),
        ) {
            let mut value = noise(seed);
            let weights: Vec<f32> = (0..n * k).map(|_| value()).collect();
            let up: Vec<f32> = (0..n * k).map(|_| value()).collect();
            let x: Vec<f32> = (0..m * k).map(|_| value()).collect();
            let round = |x: f32| f64::from(bf16::from_f32(x).to_f32());
            let exact = |weights: &[f32], row: usize, column: usize| -> f64 {
                let pairs = x[row * k..][..k].iter().zip(&weights[column * k..][..k]);
                pairs.map(|(x, w)| round(*x) * round(*w)).sum()
            };
            for words in Words::bf16(Isa::best()) {
                let layout = Layout { k, n, lanes: words.lanes(), gate };
                let parts: &[&[f32]] = if gate.is_some() { &[&weights, &up] } else { &[&weights] };
                let b = Bf16Weights::new(words, layout, parts);
                let mut a = Bf16Rows::default();
                let (mut c, mut opened) = (vec![0f32; m * n], Buffer::default());
                // A longer product before: its leftovers must not show.
                round_rows(words, &[9.; 40 * 95], 40, 95, None, &mut a);
                round_rows(words, &x, m, k, None, &mut a);
                multiply(words, &a, m, &b, &mut c, Then::Store, &mut opened);
                for (at, c) in c.iter().enumerate() {
                    let product = exact(&weights, at / n, at % n);
                    let expected = if let Some(gate) = gate {
                        gated(gate, product) * exact(&up, at / n, at % n)
                    } else {
                        product
                    };
                    prop_assert!((f64::from(*c) - expected).abs() < 2e-5, "{:?}: {} and {}", words, c, expected);
                }
            }
        }
    }
}
