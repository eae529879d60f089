//! One head's attention in training: its matrices have a few dozen rows, or a few hundred, where calling a product made
//! for large ones costs more than the product.
//!
//! Everything is dense and padded with zeros to whole vectors: `[length, depth]` for q, k, v and their gradients, with
//! `depth` from [`padded`]; scores are `[length, padded(length)]`.

use super::super::elementary::exp;
use super::super::lanes::{dot, sum};
use super::super::simd::{Isa, Kernel, Simd, kernel};
use super::super::transpose::turn;
use super::super::window::Window;

/// The largest vector of any instruction set.
const VECTOR: usize = 16;

/// The next whole number of vectors.
fn padded(length: usize) -> usize {
    length.next_multiple_of(VECTOR)
}

/// Buffers of one head, kept from head to head.
#[derive(Default)]
pub struct Head {
    length: usize,
    depth: usize,
    wide: usize,
    /// Queries.
    pub q: Vec<f32>,
    /// Keys.
    pub k: Vec<f32>,
    /// Values.
    pub v: Vec<f32>,
    /// The attended values, or their gradient in the backward pass.
    pub out: Vec<f32>,
    /// The gradient of the queries.
    pub dq: Vec<f32>,
    /// That of the keys.
    pub dk: Vec<f32>,
    /// That of the values.
    pub dv: Vec<f32>,
    turned: Vec<f32>,
    p: Vec<f32>,
    ds: Vec<f32>,
}

impl Head {
    /// Room for a sequence of `length` and heads of `head_dim`, all zeros; for the backward pass (`back`) what that
    /// needs, too.
    pub fn resize(&mut self, length: usize, head_dim: usize, back: bool) {
        (self.length, self.depth, self.wide) = (length, padded(head_dim), padded(length));
        let (rows, square) = (length * self.depth, length * self.wide);
        let back = |size: usize| if back { size } else { 0 };
        for (buffer, size) in [
            (&mut self.q, rows),
            (&mut self.k, rows),
            (&mut self.v, rows),
            (&mut self.out, rows),
            (&mut self.dq, back(rows)),
            (&mut self.dk, back(rows)),
            (&mut self.dv, back(rows)),
            (&mut self.turned, self.depth * self.wide),
            (&mut self.p, square),
            (&mut self.ds, back(square)),
        ] {
            buffer.clear();
            buffer.resize(size, 0.0);
        }
    }

    /// Elements from row to row of q, k, v, out and the gradients.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// `out = softmax(scale q k^T) v`, every row over the columns of its window.
    pub fn forward(&mut self, scale: f32, window: Window) {
        forward(Isa::best(), self, scale, window);
    }

    /// dq, dk and dv from the gradient in `out`. dk and dv are added to what is there.
    pub fn backward(&mut self, scale: f32, window: Window) {
        backward(Isa::best(), self, scale, window);
    }

    /// The probabilities into `p`.
    #[inline(always)]
    fn probabilities<S: Simd>(&mut self, scale: f32, window: Window) {
        let (length, depth, wide) = (self.length, self.depth, self.wide);
        turn::<S>(&self.k, depth, &mut self.turned, wide);
        let (q, k) = ((&self.q[..], depth, 1), (&self.turned[..], wide));
        let some = if window.after == 0 { Part::Lower } else { Part::All };
        multiply::<S>((length, depth, wide), q, k, (&mut self.p, wide), some, false);
        for (at, row) in self.p.chunks_exact_mut(wide).enumerate() {
            let seen = window.keys(at, length);
            // Behind the vector of the last token that is seen the zeros stay.
            let row = if window.after == 0 { &mut row[..padded(seen.end)] } else { row };
            row[..seen.start].fill(f32::NEG_INFINITY);
            row[seen.end..].fill(f32::NEG_INFINITY);
            let mut largest = [f32::NEG_INFINITY; VECTOR];
            for values in row.chunks_exact(VECTOR) {
                for (largest, value) in largest.iter_mut().zip(values) {
                    *largest = if *value > *largest { *value } else { *largest };
                }
            }
            let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
            for value in row.iter_mut() {
                *value = exp(scale * (*value - largest));
            }
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let share = sum(row).recip();
            for value in row {
                *value *= share;
            }
        }
    }
}

kernel! {
    fn forward<'a, S: Simd>(isa: Isa, head: &'a mut Head, scale: f32, window: Window) {
        head.probabilities::<S>(scale, window);
        let (length, depth, wide) = (head.length, head.depth, head.wide);
        let (p, v) = ((&head.p[..], wide, 1), (&head.v[..], depth));
        let some = if window.after == 0 { Part::LowerOf } else { Part::All };
        multiply::<S>((length, length, depth), p, v, (&mut head.out, depth), some, false);
    }
}

kernel! {
    fn backward<'a, S: Simd>(isa: Isa, head: &'a mut Head, scale: f32, window: Window) {
        head.probabilities::<S>(scale, window);
        let (length, depth, wide) = (head.length, head.depth, head.wide);
        let square = (length, length, depth);
        let [scores, of_scores, of_turned] = match window.after == 0 {
            true => [Part::Lower, Part::LowerOf, Part::LowerOfTurned],
            false => [Part::All; 3],
        };
        // dv += p^T g
        let (p, g) = ((&head.p[..], 1, wide), (&head.out[..], depth));
        multiply::<S>(square, p, g, (&mut head.dv, depth), of_turned, true);
        // dp = g v^T, then the gradient of the scores in its place.
        turn::<S>(&head.v, depth, &mut head.turned, wide);
        let (g, v) = ((&head.out[..], depth, 1), (&head.turned[..], wide));
        multiply::<S>((length, depth, wide), g, v, (&mut head.ds, wide), scores, false);
        for (ds, p) in head.ds.chunks_exact_mut(wide).zip(head.p.chunks_exact(wide)) {
            let pull = dot(ds, p);
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = scale * p * (*ds - pull);
            }
        }
        // dq = ds k, dk += ds^T q
        let (ds, k) = ((&head.ds[..], wide, 1), (&head.k[..], depth));
        multiply::<S>(square, ds, k, (&mut head.dq, depth), of_scores, false);
        let (ds, q) = ((&head.ds[..], 1, wide), (&head.q[..], depth));
        multiply::<S>(square, ds, q, (&mut head.dk, depth), of_turned, true);
    }
}

/// What of a product is wanted, or of a factor is not zero; where nothing is to be seen of what comes later it is half.
#[derive(Clone, Copy)]
enum Part {
    /// Everything.
    All,
    /// Of the result what lies on the diagonal or below it, and what stands in one vector with it.
    Lower,
    /// Everything; `a` is zero above the diagonal.
    LowerOf,
    /// Everything; `a` is zero below the diagonal.
    LowerOfTurned,
}

/// `c = a b`, or `+=`, for `a` `[m, k]` with element (i, j) at `i * row + j * column`, `b` `[k, n]` and `c` `[m, n]`
/// row-major, n a whole number of vectors.
#[inline(always)]
fn multiply<S: Simd>(
    (m, k, n): (usize, usize, usize),
    (a, row, column): (&[f32], usize, usize),
    (b, b_row): (&[f32], usize),
    (c, c_row): (&mut [f32], usize),
    part: Part,
    add: bool,
) {
    const ROWS: usize = 4;
    assert!(m > 0 && k > 0 && n.is_multiple_of(S::LANES) && n <= b_row && n <= c_row);
    assert!((m - 1) * row + (k - 1) * column < a.len());
    assert!((k - 1) * b_row + n <= b.len() && (m - 1) * c_row + n <= c.len());
    for first in (0..m).step_by(ROWS) {
        let count = ROWS.min(m - first);
        let end = first + count;
        let (depth, n) = match part {
            Part::All => (0..k, n),
            Part::Lower => (0..k, n.min(end.next_multiple_of(S::LANES))),
            Part::LowerOf => (0..k.min(end), n),
            Part::LowerOfTurned => (first..k, n),
        };
        for at in (0..n).step_by(S::LANES) {
            // SAFETY: below `Isa::run`; the assertions bound every index: rows first + i < m, columns at + LANES <= n.
            // Rows behind the last are read as the last and not written.
            unsafe {
                let mut sums = [S::splat(0.0); ROWS];
                let starts: [*const f32; ROWS] =
                    std::array::from_fn(|i| a.as_ptr().add((first + i.min(count - 1)) * row));
                for j in depth.clone() {
                    let vector = S::load(b.as_ptr().add(j * b_row + at));
                    for (sum, start) in sums.iter_mut().zip(starts) {
                        *sum = S::fma(S::splat(*start.add(j * column)), vector, *sum);
                    }
                }
                for (i, sum) in sums.into_iter().enumerate().take(count) {
                    let to = c.as_mut_ptr().add((first + i) * c_row + at);
                    S::store(to, if add { S::add(S::load(to), sum) } else { sum });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_the_formula() {
        let (m, k, n) = (7, 5, 32);
        let value = |i: usize| ((i * 7919 % 2003) as f32 - 1001.) / 1500.;
        let a: Vec<f32> = (0..m * k).map(value).collect();
        let b: Vec<f32> = (0..k * n).map(|i| value(i + 3)).collect();
        let turned: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
        struct Run<'a>(&'a [f32], usize, usize, &'a [f32], &'a mut [f32], bool);
        impl Kernel for Run<'_> {
            fn run<S: Simd>(self) {
                let Run(a, row, column, b, c, add) = self;
                multiply::<S>((7, 5, 32), (a, row, column), (b, 32), (c, 32), Part::All, add);
            }
        }
        for isa in Isa::available() {
            let mut c = vec![1f32; m * n];
            isa.run(Run(&a, k, 1, &b, &mut c, false));
            isa.run(Run(&turned, 1, m, &b, &mut c, true));
            for (at, c) in c.iter().enumerate() {
                let exact: f32 = (0..k).map(|j| a[at / n * k + j] * b[j * n + at % n]).sum();
                assert!((c - 2.0 * exact).abs() < 1e-5, "{isa:?}");
            }
        }
    }

    #[test]
    fn half_of_a_product_is_that_half() {
        let (m, n) = (37, 48);
        let value = |i: usize| ((i * 7919 % 2003) as f32 - 1001.) / 1500.;
        // Zero above the diagonal.
        let lower: Vec<f32> =
            (0..m * m).map(|i| if i % m <= i / m { value(i) } else { 0.0 }).collect();
        let b: Vec<f32> = (0..m * n).map(|i| value(i + 3)).collect();
        struct Run<'a>(&'a [f32], usize, usize, &'a [f32], &'a mut [f32], Part);
        impl Kernel for Run<'_> {
            fn run<S: Simd>(self) {
                let Run(a, row, column, b, c, part) = self;
                multiply::<S>((37, 37, 48), (a, row, column), (b, 48), (c, 48), part, false);
            }
        }
        for isa in Isa::available() {
            for (row, column, half) in [(m, 1, Part::LowerOf), (1, m, Part::LowerOfTurned)] {
                let (mut some, mut all) = (vec![0f32; m * n], vec![0f32; m * n]);
                isa.run(Run(&lower, row, column, &b, &mut some, half));
                isa.run(Run(&lower, row, column, &b, &mut all, Part::All));
                assert_eq!(some, all, "{isa:?}");
                isa.run(Run(&lower, row, column, &b, &mut some, Part::Lower));
                for at in (0..m * n).filter(|at| at % n <= at / n) {
                    assert_eq!(some[at], all[at], "{isa:?}");
                }
            }
        }
    }
}
