//! Matrix product of 8-bit integers in blocks along k that have a scale on either side.
//!
//! Sums within a block are exact; blocks are added in f32 in ascending order, one chain per element of the
//! result. Activations are quantised row by row. So a row's bits do not depend on its neighbours.

use super::super::buffer::Buffer;
use super::super::prefetch::Ahead;
use super::super::simd::{Simd, kernel};
use super::blocks::{BLOCK, Blocks};
use super::gemm::inverse_rms;
use super::panels::{Layout, Then, finish, rows, together};
use super::words::{Word, WordKernel, Words, open_rows};

/// Words of a block along k.
const WORDS: usize = BLOCK / 4;

/// Weights as panels `[panels][blocks][WORDS][panel]` of words, each block followed by `[panel]` scales.
pub struct Int8Weights {
    data: Buffer,
    pub layout: Layout,
    pub words: Words,
}

impl Int8Weights {
    /// Packs matrices one below the other.
    pub fn new(words: Words, layout: Layout, parts: &[&Blocks]) -> Self {
        let (blocks, panel, offset) =
            (layout.k.div_ceil(BLOCK), layout.panel(), words.offset() as i8);
        let block_len = (WORDS + 1) * panel;
        let mut data = Buffer::zeros(layout.panels() * blocks * block_len);
        let rows = parts.iter().flat_map(|part| {
            part.quants.chunks_exact(blocks * BLOCK).zip(part.scales.chunks_exact(blocks))
        });
        for (at, (quants, scales)) in rows.enumerate() {
            let (p, column) = layout.place(at);
            let to = &mut data[p * blocks * block_len..][..blocks * block_len];
            let blocks = quants.as_chunks::<BLOCK>().0.iter().zip(scales);
            for ((quants, scale), to) in blocks.zip(to.chunks_exact_mut(block_len)) {
                for (word, quants) in quants.as_chunks::<4>().0.iter().enumerate() {
                    let word_of = quants.map(|quant| (quant ^ offset) as u8);
                    to[word * panel + column] = f32::from_ne_bytes(word_of);
                }
                to[WORDS * panel + column] = *scale;
            }
        }
        Self { data, layout, words }
    }
}

/// Activations as tiles `[tiles][blocks]`, each block `[rows][SPREAD][WORDS]` words, `[rows]` sums to start from (which
/// take back what the weights were raised by) and `[rows]` scales.
#[derive(Default)]
pub struct Int8Rows {
    data: Buffer,
}

kernel! {
    /// Quantises `m` rows of `x` (`[m, k]`), RMS-normalised first where `norm` gives weight and epsilon.
    pub fn quantize_rows<'a, W: Word>(
        words: Words, x: &'a [f32], m: usize, k: usize, norm: Option<(&'a [f32], f32)>,
        to: &'a mut Int8Rows,
    ) {
        let spread = WORDS * W::SPREAD;
        let block_len = (spread + 2) * W::ROWS;
        let tile_len = k.div_ceil(BLOCK) * block_len;
        to.data.reserve(m.div_ceil(W::ROWS) * tile_len);
        for (tile, rows) in x[..m * k].chunks(W::ROWS * k).enumerate() {
            let tile = &mut to.data[tile * tile_len..][..tile_len];
            for (i, row) in rows.chunks_exact(k).enumerate() {
                let norm = norm.map(|(weight, eps)| (weight, inverse_rms::<W::S>(row, eps)));
                for (at, to) in tile.chunks_exact_mut(block_len).enumerate() {
                    let mut block = fill(row, at);
                    if let Some((weight, inverse)) = norm {
                        let weight = fill(weight, at);
                        block.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * inverse * w);
                    }
                    // SAFETY: below `Words::run`.
                    let block = unsafe { W::quantize(&block) };
                    if W::PARTS == 2 {
                        assert!(W::S::LANES == WORDS && W::SPREAD == 2, "a block is one vector");
                        let to = &mut to[i * spread..][..2 * WORDS];
                        // SAFETY: below `Words::run`; the quants are one vector, `to` has two.
                        unsafe { W::open(block.quants.as_ptr().cast(), to.as_mut_ptr(), WORDS) }
                    } else {
                        let words = block.quants.as_chunks::<4>().0;
                        for (to, quants) in to[i * spread..][..WORDS].iter_mut().zip(words) {
                            *to = f32::from_ne_bytes(quants.map(|quant| quant as u8));
                        }
                    }
                    let start = -i32::from(W::OFFSET) * block.sum;
                    to[spread * W::ROWS + i] = f32::from_bits(start as u32);
                    to[(spread + 1) * W::ROWS + i] = block.scale;
                }
            }
        }
    }
}

/// Block `at` of a row, zeros behind its end.
#[inline(always)]
fn fill(row: &[f32], at: usize) -> [f32; BLOCK] {
    let rest = &row[at * BLOCK..];
    match rest.first_chunk::<BLOCK>() {
        Some(whole) => *whole,
        None => {
            let mut block = [0.; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            block
        }
    }
}

kernel! {
    /// c = a b for quantised a and b; `c` is `[m, n]`. For gate and up: c = f(a gate) * (a up). `opened` is for weights that
    /// are opened once for all rows.
    pub fn multiply<'a, W: Word>(
        words: Words, a: &'a Int8Rows, m: usize, b: &'a Int8Weights, c: &'a mut [f32], then: Then,
        opened: &'a mut Buffer,
    ) {
        let layout = &b.layout;
        let (blocks, panel) = (layout.k.div_ceil(BLOCK), layout.panel());
        let panel_len = blocks * (WORDS + 1) * panel;
        let read_len = blocks * (WORDS * W::PARTS + 1) * panel;
        let tile_len = blocks * (WORDS * W::SPREAD + 2) * W::ROWS;
        assert!(panel == 2 * W::S::LANES && c.len() >= m * layout.n, "shapes of a packed product");
        assert!(a.data.len() >= m.div_ceil(W::ROWS) * tile_len, "rows of a packed product");
        let together = together(read_len);
        let group_len = together * panel_len;
        for (group, weights) in b.data.chunks(group_len).enumerate() {
            let after =
                if W::PARTS == 2 { &b.data[group * group_len + weights.len()..] } else { &[] };
            let mut ahead = Ahead::new(after, group_len, m.div_ceil(W::ROWS) * together);
            let weights = if W::PARTS == 2 {
                opened.reserve(together * read_len);
                // SAFETY: below `Words::run`.
                unsafe { open_blocks::<W>(weights, panel, opened) }
            } else {
                weights
            };
            for row in (0..m).step_by(W::ROWS) {
                let count = W::ROWS.min(m - row);
                for (p, weights) in weights.chunks_exact(read_len).enumerate() {
                    ahead.ask();
                    let target = layout.target(group * together + p, then);
                    // SAFETY: the asserts above bound a and c; weights is one whole panel.
                    unsafe {
                        let a = a.data.as_ptr().add(row / W::ROWS * tile_len);
                        let c = c.as_mut_ptr().add(row * layout.n + target.column);
                        rows!(W, count, M => {
                            let sums = tile::<W, M>(blocks, a, weights.as_ptr());
                            finish::<W::S, M>(&sums, c, &target);
                        });
                    }
                }
            }
        }
    }
}

/// Opens the words of whole blocks; scales stay as they are.
///
/// # Safety
/// Below [`Words::run`], for words of two parts.
#[inline(always)]
unsafe fn open_blocks<'a, W: Word>(blocks: &[f32], panel: usize, to: &'a mut [f32]) -> &'a [f32] {
    let (packed_len, opened_len) = ((WORDS + 1) * panel, (2 * WORDS + 1) * panel);
    for (block, to) in blocks.chunks_exact(packed_len).zip(to.chunks_exact_mut(opened_len)) {
        let (words, scales) = block.split_at(WORDS * panel);
        let (to, scales_to) = to.split_at_mut(2 * WORDS * panel);
        // SAFETY: as this function's.
        unsafe { open_rows::<W>(words, panel, to) };
        scales_to.copy_from_slice(scales);
    }
    &to[..blocks.len() / packed_len * opened_len]
}

/// M rows of a tile times one panel.
///
/// # Safety
/// a and b are packed for `blocks`, b is opened where its words have parts; below [`Words::run`].
#[inline(always)]
unsafe fn tile<W: Word, const M: usize>(
    blocks: usize,
    mut a: *const f32,
    mut b: *const f32,
) -> [[<W::S as Simd>::V; 2]; M] {
    let (lanes, spread) = (W::S::LANES, WORDS * W::SPREAD);
    // SAFETY: the caller vouches for the blocks.
    unsafe {
        let mut sums = [[W::S::splat(0.); 2]; M];
        for _ in 0..blocks {
            let starts = a.add(spread * W::ROWS);
            let mut exact = [[W::sum(0); 2]; M];
            if W::OFFSET != 0 {
                for (i, exact) in exact.iter_mut().enumerate() {
                    *exact = [W::sum((*starts.add(i)).to_bits() as i32); 2];
                }
            }
            for word in 0..WORDS {
                for part in 0..W::PARTS {
                    let weights = b.add((word * W::PARTS + part) * 2 * lanes).cast::<u32>();
                    let w0 = W::load(weights);
                    let w1 = W::load(weights.add(lanes));
                    for (i, exact) in exact.iter_mut().enumerate() {
                        let at = i * spread + part * WORDS + word;
                        let x = W::splat(a.add(at).cast(), WORDS);
                        exact[0] = W::dot(exact[0], w0, x);
                        exact[1] = W::dot(exact[1], w1, x);
                    }
                }
            }
            let scales = b.add(WORDS * W::PARTS * 2 * lanes);
            let (s0, s1) = (W::S::load(scales), W::S::load(scales.add(lanes)));
            for (i, (sum, exact)) in sums.iter_mut().zip(exact).enumerate() {
                let scale = W::S::splat(*starts.add(W::ROWS + i));
                sum[0] = W::S::fma(W::float(exact[0]), W::S::mul(scale, s0), sum[0]);
                sum[1] = W::S::fma(W::float(exact[1]), W::S::mul(scale, s1), sum[1]);
            }
            a = a.add((spread + 2) * W::ROWS);
            b = b.add((WORDS * W::PARTS + 1) * 2 * lanes);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::elementary::Activation;
    use super::super::super::simd::Isa;
    use super::super::blocks::{Quantized, quantize};
    use super::super::panels::tests::{exact, noise};
    use super::*;

    fn product(words: Words, x: &[f32], m: usize, b: &Int8Weights, c: &mut [f32], then: Then) {
        let mut a = Int8Rows::default();
        quantize_rows(words, x, m, b.layout.k, None, &mut a);
        multiply(words, &a, m, b, c, then, &mut Buffer::default());
    }

    /// The scalar reference: integer sums by block, blocks added in order.
    fn reference(x: &[f32], weights: &Blocks, k: usize, row: usize, column: usize) -> f32 {
        let blocks = k.div_ceil(BLOCK);
        let mut sum = 0f32;
        for block in 0..blocks {
            let mut values = [0.; BLOCK];
            let row = &x[row * k..][..k];
            let part = &row[block * BLOCK..k.min((block + 1) * BLOCK)];
            values[..part.len()].copy_from_slice(part);
            let a = quantize(&values);
            let at = column * blocks + block;
            let quants = &weights.quants[at * BLOCK..][..BLOCK];
            let exact: i32 =
                a.quants.iter().zip(quants).map(|(a, w)| i32::from(*a) * i32::from(*w)).sum();
            sum = (exact as f32).mul_add(a.scale * weights.scales[at], sum);
        }
        sum
    }

    /// What every instruction set makes of a block.
    struct QuantizeOne<'a>(&'a [f32; BLOCK], &'a mut Option<Quantized>);
    impl WordKernel for QuantizeOne<'_> {
        #[inline(always)]
        fn run<W: Word>(self) {
            // SAFETY: below `Words::run`.
            *self.1 = Some(unsafe { W::quantize(self.0) });
        }
    }

    proptest! {
        #[test]
        fn activations_quantise_alike_everywhere(
            block in prop::array::uniform32(-3f32..3.), exponent in -40i32..30,
        ) {
            let block = block.map(|x| x * x * x * 2f32.powi(exponent));
            let expected = quantize(&block);
            for words in Words::int8(Isa::best()) {
                let mut found = None;
                words.run(QuantizeOne(&block, &mut found));
                let found = found.unwrap();
                prop_assert_eq!(found.quants, expected.quants);
                prop_assert_eq!((found.scale, found.sum), (expected.scale, expected.sum));
            }
        }

        #[test]
        fn sums_within_a_block_are_exact(
            m in 1usize..15, n in 1usize..70, seed in any::<u64>(), then in any::<bool>(),
        ) {
            // Scales of 1 on both sides: what comes out are the integer sums themselves, all below 2^24.
            let mut state = seed;
            let mut byte = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as i8
            };
            let quants: Vec<i8> = (0..n * BLOCK).map(|_| byte()).collect();
            let weights = Blocks { quants, scales: vec![1.; n] };
            let mut x: Vec<f32> = (0..m * BLOCK).map(|_| f32::from(byte().max(-127))).collect();
            x.chunks_exact_mut(BLOCK).for_each(|row| row[0] = 127.);
            let then = if then { Then::Add } else { Then::Store };
            for words in Words::int8(Isa::best()) {
                let layout = Layout { k: BLOCK, n, lanes: words.lanes(), gate: None };
                let b = Int8Weights::new(words, layout, &[&weights]);
                let mut c = vec![3f32; m * n];
                product(words, &x, m, &b, &mut c, then);
                for (at, c) in c.iter().enumerate() {
                    let (row, column) = (at / n, at % n);
                    let exact: i64 = (0..BLOCK)
                        .map(|i| {
                            x[row * BLOCK + i] as i64
                                * i64::from(weights.quants[column * BLOCK + i])
                        })
                        .sum();
                    let expected = exact as f32 + if then == Then::Add { 3. } else { 0. };
                    prop_assert_eq!(*c, expected, "{:?} row {} column {}", words, row, column);
                }
            }
        }

        #[test]
        fn blocks_are_scaled_and_added(
            m in 1usize..10, n in 1usize..50, k in 1usize..200, seed in any::<u64>(),
        ) {
            let mut noise = noise(seed);
            let mut value = || noise().powi(3);
            let floats: Vec<f32> = (0..n * k).map(|_| value()).collect();
            let x: Vec<f32> = (0..m * k).map(|_| value() * 50.).collect();
            let weights = Blocks::quantize(&floats, k);
            for words in Words::int8(Isa::best()) {
                let layout = Layout { k, n, lanes: words.lanes(), gate: None };
                let b = Int8Weights::new(words, layout, &[&weights]);
                let mut c = vec![0f32; m * n];
                product(words, &x, m, &b, &mut c, Then::Store);
                for (at, c) in c.iter().enumerate() {
                    let expected = reference(&x, &weights, k, at / n, at % n);
                    if words == Words::Int8Portable {
                        // Multiplies and adds in two steps.
                        prop_assert!((c - expected).abs() < 1e-4, "{} and {}", c, expected);
                    } else {
                        prop_assert_eq!(*c, expected, "{:?}", words);
                    }
                }
            }
        }
    }

    #[test]
    fn gate_and_up_and_values_that_are_not_finite() {
        let (m, n, k) = (7, 21, 70);
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.) / 60.;
        let gate = Blocks::quantize(&(0..n * k).map(value).collect::<Vec<_>>(), k);
        let up = Blocks::quantize(&(0..n * k).map(|i| value(i + 11)).collect::<Vec<_>>(), k);
        let mut x: Vec<f32> = (0..m * k).map(|i| value(i + 5)).collect();
        x[3 * k + 40] = f32::NAN;
        x[4 * k + 2] = f32::INFINITY;
        let all = Words::int8(Isa::best()).into_iter();
        let functions = [Activation::Silu, Activation::GeluTanh, Activation::Gelu];
        for (words, function) in all.flat_map(|words| functions.map(|f| (words, f))) {
            let layout = Layout { k, n, lanes: words.lanes(), gate: Some(function) };
            let b = Int8Weights::new(words, layout, &[&gate, &up]);
            let mut c = vec![0f32; m * n];
            product(words, &x, m, &b, &mut c, Then::Store);
            for (at, c) in c.iter().enumerate() {
                if matches!(at / n, 3 | 4) {
                    assert!(!c.is_finite(), "{words:?}: {c}");
                    continue;
                }
                let gate = reference(&x, &gate, k, at / n, at % n);
                let up = reference(&x, &up, k, at / n, at % n);
                let expected = exact(function, f64::from(gate)) as f32 * up;
                assert!((c - expected).abs() < 1e-4, "{words:?}: {c} and {expected}");
            }
        }
    }
}
