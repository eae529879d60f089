//! A head that evens out the directions of a tower's vectors, and needs no training: soft whitening.
//!
//! Vectors of an LLM crowd into a few directions, which all texts share and which tell little of them. Their mean is taken off, and
//! each principal direction is divided by a power of its variance: 1/2 whitens in full (Su et al. 2021, "Whitening Sentence
//! Representations"), which also raises noise; about 1/4 measured best (`benches/linear.py`).

use std::path::Path;

use candle_core::{Device, Tensor};
use nalgebra::DMatrix;

use super::faults::{Faults, refuse};
use super::head::write_modules;
use super::tensors::tensor_error;
use crate::error::{Error, Result};
use crate::observe::format;
use crate::types::Embeddings;

/// Variances below this share of the largest count as that share: directions that the texts do not show stay small.
const FLOOR: f64 = 1e-6;

/// How a head is fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct WhitenOptions {
    /// The power of each direction's variance that is divided out: 0 takes off the mean only, 0.5 whitens in full.
    pub power: f64,
    /// Texts that it is fitted on, at most; as many queries as documents, if there are.
    pub texts: usize,
}

impl Default for WhitenOptions {
    fn default() -> Self {
        Self { power: 0.25, texts: 4096 }
    }
}

impl WhitenOptions {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// Config, naming every field.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Faults::default();
        faults.require((0.0..=0.5).contains(&self.power), "power", "must be in 0..=0.5");
        faults.require(self.texts >= 2, "texts", "must be at least 2");
        refuse(&faults.0)
    }
}

/// A fitted head: `weight (x - mean)` of a unit vector x.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitening {
    dimensions: usize,
    /// `[dimensions, dimensions]`, row-major, symmetric.
    weight: Vec<f32>,
    mean: Vec<f32>,
}

impl Whitening {
    /// Refuses so few texts that they say nothing of some direction, before they are encoded.
    ///
    /// # Errors
    /// Input.
    pub fn check(texts: usize, dimensions: usize) -> Result<()> {
        match texts > dimensions {
            true => Ok(()),
            false => Err(Error::input(format!(
                "{} are too few for {dimensions} dimensions; name more pairs, or raise --texts",
                format::counted(texts as u64, "text")
            ))),
        }
    }

    /// Fits a head to unit vectors.
    ///
    /// # Errors
    /// Input where there are too few vectors to say anything of every direction, or they are not numbers.
    pub fn fit(vectors: &Embeddings, power: f64) -> Result<Self> {
        let (rows, n) = (vectors.len(), vectors.dimensions());
        Self::check(rows, n)?;
        let values = vectors.as_slice().iter().map(|value| f64::from(*value));
        let mut centred = DMatrix::from_row_iterator(rows, n, values);
        let mean = centred.row_mean();
        centred.row_iter_mut().for_each(|mut row| row -= &mean);
        let covariance = centred.tr_mul(&centred) / (rows - 1) as f64;
        if !covariance.iter().all(|value| value.is_finite()) {
            return Err(Error::input("some vectors are not numbers"));
        }
        let eigen = covariance.symmetric_eigen();
        let floor = FLOOR * eigen.eigenvalues.max();
        if floor <= 0.0 {
            return Err(Error::input("all vectors are the same"));
        }
        let scales = eigen.eigenvalues.map(|value| value.max(floor).powf(-power));
        // Back in the old directions: the map is the same but for a rotation, and without a power it is none.
        let scaled = &eigen.eigenvectors * DMatrix::from_diagonal(&scales);
        let weight = scaled * eigen.eigenvectors.transpose();
        Ok(Self {
            dimensions: n,
            weight: weight.transpose().iter().map(|value| *value as f32).collect(),
            mean: mean.iter().map(|value| *value as f32).collect(),
        })
    }

    /// What becomes of unit vectors, unit vectors again.
    pub fn apply(&self, vectors: &Embeddings) -> Embeddings {
        let mut out = Embeddings::with_capacity(self.dimensions, vectors.len());
        for row in vectors.rows() {
            let centred: Vec<f32> = row.iter().zip(&self.mean).map(|(x, mean)| x - mean).collect();
            let rows = self.weight.chunks_exact(self.dimensions);
            let mut row: Vec<f32> =
                rows.map(|weight| crate::kernel::dot(weight, &centred)).collect();
            let length = crate::kernel::dot(&row, &row).sqrt().max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|value| *value /= length);
            out.push(&row);
        }
        out
    }

    /// Writes it into `folder`, as `tower.head` names it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let (n, cpu) = (self.dimensions, &Device::Cpu);
        let rows = self.weight.chunks_exact(n);
        let bias: Vec<f32> = rows.map(|row| -crate::kernel::dot(row, &self.mean)).collect();
        let weight = Tensor::from_slice(&self.weight, (n, n), cpu).map_err(tensor_error)?;
        let bias = Tensor::from_vec(bias, n, cpu).map_err(tensor_error)?;
        write_modules(folder, None, &weight, Some(&bias))
    }
}

/// The mean cosine of two different vectors: near 1 where all crowd into one direction.
pub fn crowding(vectors: &Embeddings) -> f64 {
    let (rows, n) = (vectors.len() as f64, vectors.dimensions());
    let mut sum = vec![0.0; n];
    for row in vectors.rows() {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let squared: f64 = sum.iter().map(|value| value * value).sum();
    (squared - rows) / (rows * (rows - 1.0)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::SplitMix64;

    /// Unit vectors in a cone, longer in some directions than in others.
    fn vectors(rows: usize) -> Embeddings {
        let mut rng = SplitMix64::new(5);
        let mut all = Embeddings::with_capacity(6, rows);
        for _ in 0..rows {
            let mut row: Vec<f32> = (1..=6).map(|at| rng.normal() as f32 / at as f32).collect();
            row[0] += 3.0;
            row[4] += row[3];
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter_mut().for_each(|value| *value /= length);
            all.push(&row);
        }
        all
    }

    /// Mean and covariance of `weight (x - mean)`.
    fn moments(head: &Whitening, vectors: &Embeddings) -> (Vec<f64>, Vec<Vec<f64>>) {
        let n = head.dimensions;
        let rows: Vec<Vec<f64>> = vectors
            .rows()
            .map(|row| {
                let weights = head.weight.chunks_exact(n);
                let of = |weight: &[f32]| {
                    let terms = weight.iter().zip(row).zip(&head.mean);
                    terms.map(|((w, x), mean)| f64::from(*w) * f64::from(x - mean)).sum()
                };
                weights.map(of).collect()
            })
            .collect();
        let count = rows.len() as f64;
        let mean: Vec<f64> =
            (0..n).map(|at| rows.iter().map(|row| row[at]).sum::<f64>() / count).collect();
        let covariance = |a: usize, b: usize| {
            let products = rows.iter().map(|row| (row[a] - mean[a]) * (row[b] - mean[b]));
            products.sum::<f64>() / (count - 1.0)
        };
        let all = (0..n).map(|a| (0..n).map(|b| covariance(a, b)).collect()).collect();
        (mean, all)
    }

    #[test]
    fn in_full_every_direction_is_alike_and_at_none_only_the_mean_is_gone() {
        let vectors = vectors(2_000);
        let full = Whitening::fit(&vectors, 0.5).unwrap();
        let (mean, covariance) = moments(&full, &vectors);
        assert!(mean.iter().all(|value| value.abs() < 1e-3), "{mean:?}");
        for (a, row) in covariance.iter().enumerate() {
            for (b, value) in row.iter().enumerate() {
                let expected = if a == b { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 1e-3, "{a} {b}: {value}");
            }
        }
        let none = Whitening::fit(&vectors, 0.0).unwrap();
        for (at, weight) in none.weight.iter().enumerate() {
            let expected = if at % 7 == 0 { 1.0 } else { 0.0 };
            assert!((weight - expected).abs() < 1e-5, "{:?}", none.weight);
        }
        // Half of it twice is all of it: variances are left to the power of a half.
        let half = Whitening::fit(&vectors, 0.25).unwrap();
        let (_, left) = moments(&half, &vectors);
        let (_, whole) = moments(&none, &vectors);
        let trace = |of: &[Vec<f64>]| (0..6).map(|at| of[at][at]).collect::<Vec<_>>();
        let product: f64 = DMatrix::from_fn(6, 6, |a, b| left[a][b]).determinant();
        let before: f64 = DMatrix::from_fn(6, 6, |a, b| whole[a][b]).determinant();
        assert!(
            (product / before.sqrt() - 1.0).abs() < 1e-2,
            "{:?} {:?}",
            trace(&left),
            trace(&whole)
        );
        let (before, after) = (crowding(&vectors), crowding(&half.apply(&vectors)));
        assert!(before > 0.5 && after.abs() < 0.1, "{before} {after}");
    }

    #[test]
    fn what_says_nothing_is_refused() {
        assert!(Whitening::fit(&vectors(6), 0.25).is_err(), "as many texts as dimensions");
        let same = Embeddings::from_vec(2, [1.0, 0.0].repeat(9)).unwrap();
        assert!(Whitening::fit(&same, 0.25).is_err());
        let broken = Embeddings::from_vec(2, vec![f32::NAN; 18]).unwrap();
        assert!(Whitening::fit(&broken, 0.25).is_err());
        for power in [-0.1, 0.6, f64::NAN] {
            assert!(WhitenOptions { power, ..WhitenOptions::default() }.validate().is_err());
        }
    }
}
