//! Products of training with numbers rounded to bf16 and sums in f32: of a weight matrix that is packed for many of them, and
//! of any two matrices.

use std::cell::RefCell;

use rayon::prelude::*;

use super::super::simd::Isa;
use super::linear::{Activations, Format, Linear, Matrix};
use super::panels::Then;

/// Rows that one task of the thread pool multiplies.
const ROWS_PER_TASK: usize = 256;

/// `W` `[out, in]` in bf16, for products with rows that are rounded to bf16; sums are f32.
pub struct FrozenMatrix {
    isa: Isa,
    format: Format,
    /// `x W^T`
    forward: Linear,
    /// `g W`
    backward: Linear,
    out: usize,
    input: usize,
}

/// A low-rank update `scale * B A` beside a frozen matrix: `a` is `[rank, in]`, `b` `[out, rank]`.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    /// The factor that takes the input.
    pub a: &'a [f32],
    /// The factor that gives the output.
    pub b: &'a [f32],
    /// Width between them.
    pub rank: usize,
    /// Multiplies the update.
    pub scale: f32,
}

thread_local! {
    /// Packed rows of the product at work.
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

/// `c = a b^T` for row-major `a` `[m, k]` and `b` `[n, k]`.
pub fn rounded_product(a: &[f32], b: &[f32], k: usize, c: &mut [f32]) {
    let (isa, n) = (Isa::best(), b.len() / k);
    let b = pack(Format::best_bf16(isa), b.to_vec(), n, k);
    products(isa, &b, None, (a, k), (c, n), Then::Store, &mut []);
}

/// `c = a b`, or `+=` where it is to `add`, for row-major `a` `[m, k]` and `b` `[k, n]`.
pub fn rounded_product_of_rows(a: &[f32], b: &[f32], k: usize, c: &mut [f32], add: bool) {
    let (isa, n) = (Isa::best(), b.len() / k);
    let b = Linear::turned(Format::best_bf16(isa), b, n, k);
    let then = if add { Then::Add } else { Then::Store };
    products(isa, &b, None, (a, k), (c, n), then, &mut []);
}

impl FrozenMatrix {
    /// Packs a row-major `weight` `[out, input]` for the best instructions of this machine.
    pub fn new(weight: &[f32], out: usize, input: usize) -> Self {
        let isa = Isa::best();
        let format = Format::best_bf16(isa);
        let forward = pack(format, weight.to_vec(), out, input);
        let backward = Linear::turned(format, weight, input, out);
        Self { isa, format, forward, backward, out, input }
    }

    /// (out, in).
    pub fn shape(&self) -> (usize, usize) {
        (self.out, self.input)
    }

    /// Packs a low-rank update beside this matrix for both ways: once for as many products as its factors last.
    pub fn low_rank(&self, l: LowRank<'_>) -> LowRankUpdate {
        let forward = Update {
            first: pack(self.format, l.a.to_vec(), l.rank, self.input),
            second: pack(self.format, l.b.to_vec(), self.out, l.rank),
            rank: l.rank,
            scale: l.scale,
        };
        let backward = Update {
            first: Linear::turned(self.format, l.b, l.rank, self.out),
            second: Linear::turned(self.format, l.a, self.input, l.rank),
            rank: l.rank,
            scale: l.scale,
        };
        LowRankUpdate { forward, backward }
    }

    /// `y = x W^T + low B^T` with `low = scale x A^T`, for `x` `[rows, in]`; `low` is `[rows, rank]`, or empty where nobody
    /// wants it.
    pub fn forward(
        &self,
        x: &[f32],
        low_rank: Option<&LowRankUpdate>,
        y: &mut [f32],
        low: &mut [f32],
    ) {
        let update = low_rank.map(|both| &both.forward);
        let (x, y) = ((x, self.input), (y, self.out));
        products(self.isa, &self.forward, update, x, y, Then::Store, low);
    }

    /// `dx = g W + dlow A`, or `+=` where it is to `add`, with `dlow = scale g B`, for `g` `[rows, out]`; `dlow` is
    /// `[rows, rank]`, or empty.
    pub fn backward(
        &self,
        g: &[f32],
        low_rank: Option<&LowRankUpdate>,
        dx: &mut [f32],
        add: bool,
        dlow: &mut [f32],
    ) {
        let update = low_rank.map(|both| &both.backward);
        let (g, dx) = ((g, self.out), (dx, self.input));
        let then = if add { Then::Add } else { Then::Store };
        products(self.isa, &self.backward, update, g, dx, then, dlow);
    }
}

/// A row's bits do not depend on the tasks.
fn products(
    isa: Isa,
    linear: &Linear,
    update: Option<&Update>,
    (x, k): (&[f32], usize),
    (y, n): (&mut [f32], usize),
    then: Then,
    low: &mut [f32],
) {
    assert!(x.len() / k == y.len() / n, "rows of a product");
    let rank = update.map_or(0, |update| update.rank);
    assert!(low.is_empty() || low.len() == x.len() / k * rank, "rows of a low-rank update");
    let tasks = y.par_chunks_mut(ROWS_PER_TASK * n).zip(x.par_chunks(ROWS_PER_TASK * k));
    let multiply = |y: &mut [f32], x: &[f32], low: Option<&mut [f32]>| {
        ACTIVATIONS.with_borrow_mut(|packed| {
            let rows = x.len() / k;
            linear.prepare(isa, x, rows, None, packed);
            linear.apply(isa, packed, rows, y, then);
            let Some(update) = update else { return };
            let mut own = Vec::new();
            let low = low.unwrap_or_else(|| {
                own.resize(rows * rank, 0.);
                &mut own
            });
            update.first.apply(isa, packed, rows, low, Then::Store);
            low.iter_mut().for_each(|value| *value *= update.scale);
            update.second.prepare(isa, low, rows, None, packed);
            update.second.apply(isa, packed, rows, y, Then::Add);
        });
    };
    if low.is_empty() {
        tasks.for_each(|(y, x)| multiply(y, x, None));
    } else {
        let low = low.par_chunks_mut(ROWS_PER_TASK * rank);
        tasks.zip(low).for_each(|((y, x), low)| multiply(y, x, Some(low)));
    }
}
/// A low-rank update that is packed for both ways; see [`FrozenMatrix::low_rank`].
pub struct LowRankUpdate {
    forward: Update,
    backward: Update,
}

/// Both factors of a low-rank update.
struct Update {
    first: Linear,
    second: Linear,
    rank: usize,
    scale: f32,
}

fn pack(format: Format, matrix: Vec<f32>, n: usize, k: usize) -> Linear {
    Linear::stack(format, &[&Matrix::Floats(matrix)], n, k)
}

#[cfg(test)]
mod tests {
    use super::super::super::transpose::transposed;
    use super::*;

    #[test]
    fn both_sides_are_the_products_of_rounded_numbers() {
        let (rows, out, input) = (300, 40, 70);
        let value = |i: usize| ((i * 7919 % 2003) as f32 - 1001.) / 1500.;
        let w: Vec<f32> = (0..out * input).map(value).collect();
        let x: Vec<f32> = (0..rows * input).map(|i| value(i + 17)).collect();
        let g: Vec<f32> = (0..rows * out).map(|i| value(i + 71)).collect();
        let matrix = FrozenMatrix::new(&w, out, input);
        assert_eq!(matrix.shape(), (out, input));
        let round = |x: f32| half::bf16::from_f32(x).to_f32();
        let (mut y, mut dx) = (vec![0f32; rows * out], vec![0f32; rows * input]);
        matrix.forward(&x, None, &mut y, &mut []);
        matrix.backward(&g, None, &mut dx, false, &mut []);
        let mut twice = dx.clone();
        matrix.backward(&g, None, &mut twice, true, &mut []);
        assert!(twice.iter().zip(&dx).all(|(twice, once)| *twice == 2.0 * once));
        for row in 0..rows {
            for o in 0..out {
                let exact: f32 =
                    (0..input).map(|i| round(x[row * input + i]) * round(w[o * input + i])).sum();
                assert!((y[row * out + o] - exact).abs() < 1e-4);
            }
            for i in 0..input {
                let exact: f32 =
                    (0..out).map(|o| round(g[row * out + o]) * round(w[o * input + i])).sum();
                assert!((dx[row * input + i] - exact).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn any_two_matrices() {
        let (m, n, k) = (70, 41, 53);
        let value = |i: usize| ((i * 7919 % 2003) as f32 - 1001.) / 1500.;
        let a: Vec<f32> = (0..m * k).map(value).collect();
        let b: Vec<f32> = (0..n * k).map(|i| value(i + 3)).collect();
        let mut c = vec![0f32; m * n];
        rounded_product(&a, &b, k, &mut c);
        let mut turned = vec![0f32; n * m];
        rounded_product(&b, &a, k, &mut turned);
        assert_eq!(transposed(&turned, n, m), c);
        let mut of_rows = vec![0f32; m * n];
        let b_rows = transposed(&b, n, k);
        rounded_product_of_rows(&a, &b_rows, k, &mut of_rows, false);
        assert_eq!(of_rows, c);
        rounded_product_of_rows(&a, &b_rows, k, &mut of_rows, true);
        assert!(of_rows.iter().zip(&c).all(|(twice, once)| *twice == 2.0 * once));
        for (at, c) in c.iter().enumerate() {
            let rows = (&a[at / n * k..][..k], &b[at % n * k..][..k]);
            let exact: f32 = rows.0.iter().zip(rows.1).map(|(a, b)| a * b).sum();
            assert!((c - exact).abs() < 0.06, "{c} and {exact}");
        }
    }

    #[test]
    fn a_low_rank_update_is_added_on_both_sides() {
        let (rows, out, input, rank, scale) = (270, 40, 70, 3, 0.5);
        let value = |i: usize| ((i * 7919 % 2003) as f32 - 1001.) / 1500.;
        let fill =
            |len: usize, from: usize| -> Vec<f32> { (from..from + len).map(value).collect() };
        let (w, x, g) = (fill(out * input, 0), fill(rows * input, 17), fill(rows * out, 71));
        let (a, b) = (fill(rank * input, 5), fill(out * rank, 9));
        let matrix = FrozenMatrix::new(&w, out, input);
        let update = matrix.low_rank(LowRank { a: &a, b: &b, rank, scale });
        let low_rank = Some(&update);
        let (mut y, mut dx) = (vec![0f32; rows * out], vec![0f32; rows * input]);
        let (mut low, mut dlow) = (vec![0f32; rows * rank], vec![0f32; rows * rank]);
        matrix.forward(&x, low_rank, &mut y, &mut low);
        matrix.backward(&g, low_rank, &mut dx, false, &mut dlow);
        let merged = |o: usize, i: usize| -> f32 {
            let update: f32 = (0..rank).map(|r| b[o * rank + r] * a[r * input + i]).sum();
            w[o * input + i] + scale * update
        };
        for row in (0..rows).step_by(13) {
            for o in 0..out {
                let exact: f32 = (0..input).map(|i| x[row * input + i] * merged(o, i)).sum();
                assert!((y[row * out + o] - exact).abs() < 0.06, "{} {exact}", y[row * out + o]);
            }
            for i in 0..input {
                let exact: f32 = (0..out).map(|o| g[row * out + o] * merged(o, i)).sum();
                assert!((dx[row * input + i] - exact).abs() < 0.06);
            }
            for r in 0..rank {
                let exact: f32 = (0..input).map(|i| x[row * input + i] * a[r * input + i]).sum();
                assert!((low[row * rank + r] - scale * exact).abs() < 0.06);
                let exact: f32 = (0..out).map(|o| g[row * out + o] * b[o * rank + r]).sum();
                assert!((dlow[row * rank + r] - scale * exact).abs() < 0.06);
            }
        }
    }
}
