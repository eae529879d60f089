//! Where a student's projection starts: the least-squares map from its states to the teacher's vectors.

use candle_core::{Result as CandleResult, Tensor};

use crate::error::{Error, Result};
use crate::train::tensors::{read_back, tensor_error};
use crate::types::Cancel;

/// Ridge, as a share of the mean squared state: enough that directions which the texts do not show stay small.
const RIDGE: f64 = 1e-3;
/// The same where a fitted map is refitted: what few texts show may move it, what they do not show must not.
const REFIT_RIDGE: f64 = 1e-1;

/// The weight `[dimensions, width]` that maps the texts' states closest to the vectors `targets`, `[texts, dimensions]`; near
/// `old`, where there is one. `states` gives those of a batch of texts, `[texts, width]`.
///
/// # Errors
/// Input where the states are not finite or all zero; those of `states`; Cancelled.
pub(super) fn fit(
    width: usize,
    sequences: &[Vec<u32>],
    targets: &[f32],
    batch: usize,
    old: Option<&[f32]>,
    cancel: &Cancel,
    states: impl Fn(&[&[u32]]) -> Result<Tensor>,
) -> Result<Vec<f32>> {
    let dimensions = targets.len() / sequences.len();
    let mut fit = LeastSquares::new(width, dimensions);
    let batches = sequences.chunks(batch).zip(targets.chunks(batch * dimensions));
    for (sequences, targets) in batches {
        cancel.check()?;
        let x = states(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let sums = || -> CandleResult<[Vec<f32>; 2]> {
            let y = Tensor::from_slice(targets, (sequences.len(), dimensions), x.device())?;
            let turned = x.t()?.contiguous()?;
            Ok([read_back(&turned.matmul(&x)?)?, read_back(&turned.matmul(&y)?)?])
        };
        let [gram, moment] = sums().map_err(tensor_error)?;
        fit.add(&gram, &moment);
    }
    match old {
        None => fit.weight(),
        Some(old) => fit.weight_near(old),
    }
}

/// Sums over texts, of which the best linear map follows.
struct LeastSquares {
    inputs: usize,
    outputs: usize,
    /// `[inputs, inputs]`, sum of x xᵀ.
    gram: Vec<f64>,
    /// `[inputs, outputs]`, sum of x yᵀ.
    moment: Vec<f64>,
}

impl LeastSquares {
    /// For maps of `inputs` numbers to `outputs`.
    fn new(inputs: usize, outputs: usize) -> Self {
        let (gram, moment) = (vec![0.0; inputs * inputs], vec![0.0; inputs * outputs]);
        Self { inputs, outputs, gram, moment }
    }

    /// Adds the sums of a batch: `gram` `[inputs, inputs]` and `moment` `[inputs, outputs]`.
    fn add(&mut self, gram: &[f32], moment: &[f32]) {
        let add = |into: &mut [f64], from: &[f32]| {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += f64::from(*from));
        };
        add(&mut self.gram, gram);
        add(&mut self.moment, moment);
    }

    /// `[outputs, inputs]`: the weight of the linear layer with the least squared error, and a small ridge.
    ///
    /// # Errors
    /// Input where the states are not finite or all zero.
    fn weight(self) -> Result<Vec<f32>> {
        let ridge = self.ridge(RIDGE);
        self.solve(ridge)
    }

    /// [`LeastSquares::weight`] with a ridge towards `old`, `[outputs, inputs]`, instead of towards zero.
    ///
    /// # Errors
    /// As [`LeastSquares::weight`].
    fn weight_near(mut self, old: &[f32]) -> Result<Vec<f32>> {
        let ridge = self.ridge(REFIT_RIDGE);
        for (to, row) in old.chunks_exact(self.inputs).enumerate() {
            for (from, value) in row.iter().enumerate() {
                self.moment[from * self.outputs + to] += ridge * f64::from(*value);
            }
        }
        self.solve(ridge)
    }

    /// This share of the mean squared state.
    fn ridge(&self, share: f64) -> f64 {
        let trace: f64 = (0..self.inputs).map(|at| self.gram[at * self.inputs + at]).sum();
        share * trace / self.inputs as f64
    }

    fn solve(mut self, ridge: f64) -> Result<Vec<f32>> {
        let (n, m) = (self.inputs, self.outputs);
        (0..n).for_each(|at| self.gram[at * n + at] += ridge);
        cholesky(&mut self.gram, n)?;
        let (l, x) = (&self.gram, &mut self.moment);
        // L z = moment, then Lᵀ weightᵀ = z; row operations, so that the inner loops run along memory.
        for row in 0..n {
            for other in 0..row {
                subtract(x, m, row, other, l[row * n + other]);
            }
            x[row * m..(row + 1) * m].iter_mut().for_each(|v| *v /= l[row * n + row]);
        }
        for row in (0..n).rev() {
            for other in row + 1..n {
                subtract(x, m, row, other, l[other * n + row]);
            }
            x[row * m..(row + 1) * m].iter_mut().for_each(|v| *v /= l[row * n + row]);
        }
        Ok((0..m)
            .flat_map(|to| (0..n).map(move |from| (from, to)))
            .map(|(from, to)| x[from * m + to] as f32)
            .collect())
    }
}

/// Row `row` less `factor` times row `other`, of rows of `width`.
fn subtract(rows: &mut [f64], width: usize, row: usize, other: usize, factor: f64) {
    let (low, high) = rows.split_at_mut(row.max(other) * width);
    let (small, large) = (row.min(other) * width, &mut high[..width]);
    let small = &mut low[small..small + width];
    let (into, from) = if row < other { (small, large) } else { (large, small) };
    into.iter_mut().zip(from).for_each(|(into, from)| *into -= factor * *from);
}

/// The lower triangle of a symmetric positive matrix `[n, n]` becomes its Cholesky factor.
fn cholesky(a: &mut [f64], n: usize) -> Result<()> {
    for row in 0..n {
        for column in 0..=row {
            let (left, right) =
                (&a[row * n..row * n + column], &a[column * n..column * n + column]);
            let sum: f64 = left.iter().zip(right).map(|(x, y)| x * y).sum();
            let rest = a[row * n + column] - sum;
            if row > column {
                a[row * n + column] = rest / a[column * n + column];
            } else if rest > 0.0 && rest.is_finite() {
                a[row * n + row] = rest.sqrt();
            } else {
                return Err(Error::input(
                    "the student's states say nothing about its texts: are its weights all zero, or not finite?",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::SplitMix64;

    #[test]
    fn a_linear_map_is_found_again() {
        let (inputs, outputs, texts) = (7, 5, 400);
        let mut rng = SplitMix64::new(11);
        let mut draw = |count: usize| (0..count).map(|_| rng.normal() as f32).collect::<Vec<_>>();
        let (map, states) = (draw(outputs * inputs), draw(texts * inputs));
        let mut fit = LeastSquares::new(inputs, outputs);
        for x in states.chunks(inputs) {
            let y: Vec<f32> =
                map.chunks(inputs).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
            fit.add(&outer(x, x), &outer(x, &y));
        }
        let found = fit.weight().unwrap();
        let worst = found.iter().zip(&map).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.01, "off by {worst}");
    }

    fn outer(a: &[f32], b: &[f32]) -> Vec<f32> {
        a.iter().flat_map(|a| b.iter().map(move |b| a * b)).collect()
    }

    /// Gauss-Jordan with pivots: `a` is `[n, n]`, `b` `[n]`.
    fn direct(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
        let n = b.len();
        for column in 0..n {
            let pivot = (column..n)
                .max_by(|x, y| a[*x][column].abs().total_cmp(&a[*y][column].abs()))
                .unwrap();
            a.swap(column, pivot);
            b.swap(column, pivot);
            for row in (0..n).filter(|row| *row != column) {
                let factor = a[row][column] / a[column][column];
                let (from, value) = (a[column].clone(), b[column]);
                a[row].iter_mut().zip(from).for_each(|(into, from)| *into -= factor * from);
                b[row] -= factor * value;
            }
        }
        (0..n).map(|at| b[at] / a[at][at]).collect()
    }

    #[test]
    fn a_refit_is_the_direct_solution_near_what_it_was() {
        // Fewer texts than directions: without a ridge there would be no single answer.
        let (inputs, outputs, texts) = (6, 3, 4);
        let mut rng = SplitMix64::new(12);
        let mut draw = |count: usize| (0..count).map(|_| rng.normal() as f32).collect::<Vec<_>>();
        let (old, states, targets) =
            (draw(outputs * inputs), draw(texts * inputs), draw(texts * outputs));
        let mut fit = LeastSquares::new(inputs, outputs);
        let rows = || states.chunks(inputs).zip(targets.chunks(outputs));
        rows().for_each(|(x, y)| fit.add(&outer(x, x), &outer(x, y)));
        let squares: f64 = states.iter().map(|x| f64::from(*x).powi(2)).sum();
        let ridge = REFIT_RIDGE * squares / inputs as f64;
        let found = fit.weight_near(&old).unwrap();
        for (to, old) in old.chunks(inputs).enumerate() {
            let sum = |of: &dyn Fn(&[f32], &[f32]) -> f32| -> f64 {
                rows().map(|(x, y)| f64::from(of(x, y))).sum()
            };
            let diagonal = |i: usize, j: usize| if i == j { ridge } else { 0.0 };
            let gram = (0..inputs)
                .map(|i| (0..inputs).map(|j| sum(&|x, _| x[i] * x[j]) + diagonal(i, j)).collect())
                .collect();
            let moment = (0..inputs).map(|i| sum(&|x, y| x[i] * y[to]) + ridge * f64::from(old[i]));
            let expected = direct(gram, moment.collect());
            for (found, expected) in found[to * inputs..].iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_refit_leaves_what_the_texts_do_not_show() {
        let mut fit = LeastSquares::new(2, 1);
        fit.add(&[100.0, 0.0, 0.0, 0.0], &[300.0, 0.0]);
        let found = fit.weight_near(&[1.0, 7.0]).unwrap();
        assert!(found[0] > 2.5 && (found[1] - 7.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn what_the_texts_do_not_show_stays_zero() {
        let mut fit = LeastSquares::new(2, 1);
        fit.add(&[1.0, 0.0, 0.0, 0.0], &[3.0, 0.0]);
        let found = fit.weight().unwrap();
        assert!((found[0] - 3.0).abs() < 0.01 && found[1].abs() < 1e-9, "{found:?}");
        assert!(LeastSquares::new(2, 1).weight().is_err());
        let mut broken = LeastSquares::new(1, 1);
        broken.add(&[f32::NAN], &[1.0]);
        assert!(broken.weight().is_err());
    }
}
