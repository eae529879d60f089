//! Weights from their files onto a device.

use candle_core::{DType, Device, Tensor};

use crate::error::{ErrorKind, Result, ResultExt};
use crate::tower::WeightSource;
use crate::tower::model::rope::Rope;

/// Puts weights on a device, in the type that it computes in.
pub(super) struct Loader<'a> {
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
}

impl Loader<'_> {
    /// A tensor by name. Where the file has 16 bits an element, those are transferred, and the device converts them.
    pub(super) fn tensor(
        &self,
        source: &dyn WeightSource,
        name: &str,
        shape: &[usize],
    ) -> Result<Tensor> {
        let tensor = match source.half(name, shape)? {
            Some(tensor) => tensor,
            None => source.tensor(name, shape)?,
        };
        self.put(&tensor, self.dtype)
    }

    /// Numbers of the host.
    pub(super) fn numbers(&self, data: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = Tensor::from_vec(data, shape, &Device::Cpu);
        self.put(&tensor.context(|| "wrapping weights")?, dtype)
    }

    /// Rotations of heads in f32, `[positions, head_dim]`, cosines before sines.
    pub(super) fn angles(&self, rope: &Rope, head_dim: usize) -> Result<Tensor> {
        let (cos, sin) = rope.tables();
        let half = head_dim / 2;
        let rows = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        let angles: Vec<f32> = rows.flat_map(|(cos, sin)| [cos, sin]).flatten().copied().collect();
        let positions = angles.len() / head_dim;
        self.numbers(angles, &[positions, head_dim], DType::F32)
    }

    fn put(&self, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
        let copied = tensor.to_device(self.device).and_then(|tensor| tensor.to_dtype(dtype));
        copied.or_error(ErrorKind::Resource, || "copying weights to the device")
    }

    /// Matrices one below the other, so that one product gives what several would.
    pub(super) fn stacked(&self, matrices: &[Tensor]) -> Result<Tensor> {
        let stacked = Tensor::cat(matrices, 0);
        stacked.or_error(ErrorKind::Resource, || "stacking weights on the device")
    }
}
