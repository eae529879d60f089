//! A decoder student's way to the dimensions of a teacher that has others.

use std::path::Path;

use candle_core::{Device, Result as CandleResult, Tensor, Var};

use super::decoder::NamedVar;
use super::least_squares;
use crate::dataset::SplitMix64;
use crate::error::Result;
use crate::train::head::write_modules;
use crate::train::tensors::tensor_error;
use crate::types::{Cancel, Pooling};

/// What it is called among a student's parameters.
pub(super) const PROJECTION: &str = "projection.weight";

/// A matrix `[outputs, inputs]`, of normally distributed numbers: states of unit variance keep about their length.
pub(super) fn drawn(
    outputs: usize,
    inputs: usize,
    seed: u64,
    device: &Device,
) -> CandleResult<Var> {
    let mut rng = SplitMix64::new(seed ^ 0x5052_4F4A);
    let scale = (inputs as f64).sqrt().recip();
    let data: Vec<f32> = (0..outputs * inputs).map(|_| (rng.normal() * scale) as f32).collect();
    Var::from_vec(data, (outputs, inputs), device)
}

/// A linear map behind a decoder's unit vectors.
pub(super) struct Projection {
    /// `[teacher's dimensions, width]`.
    weight: Var,
}

impl Projection {
    pub(super) fn drawn(outputs: usize, inputs: usize, seed: u64) -> Result<Self> {
        let weight = drawn(outputs, inputs, seed, &Device::Cpu).map_err(tensor_error)?;
        Ok(Self { weight })
    }

    pub(super) fn named(&self) -> NamedVar {
        (PROJECTION.to_owned(), self.weight.clone())
    }

    /// `[texts, width]` to `[texts, dimensions]`, not normalised.
    pub(super) fn apply(&self, vectors: &Tensor) -> CandleResult<Tensor> {
        vectors.matmul(&self.weight.t()?)
    }

    /// Puts it where it maps the texts, of which `embed` gives the unit vectors, closest to `targets`.
    pub(super) fn fit(
        &self,
        sequences: &[Vec<u32>],
        targets: &[f32],
        batch: usize,
        cancel: &Cancel,
        embed: impl Fn(&[&[u32]]) -> Result<Tensor>,
    ) -> Result<()> {
        let width = self.weight.dims()[1];
        let fitted = least_squares::fit(width, sequences, targets, batch, None, cancel, embed)?;
        let fitted = Tensor::from_vec(fitted, self.weight.shape(), &Device::Cpu);
        fitted.and_then(|fitted| self.weight.set(&fitted)).map_err(tensor_error)
    }

    /// Writes the modules of the model in `folder`: its own pooling, and this behind it.
    pub(super) fn write(&self, folder: &Path, pooling: Pooling) -> Result<()> {
        write_modules(folder, Some(pooling), self.weight.as_tensor(), None)
    }
}
