//! Weights from their files onto a device.

use candle_core::{DType, Device, Tensor};

use crate::error::{ErrorKind, Result, ResultExt};
use crate::tower::WeightSource;

/// Puts weights of a source on a device, in the type that it computes in.
pub(super) struct Loader<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
}

impl Loader<'_> {
    /// A tensor by name. Where the file has 16 bits an element, so many travel, and the device converts them.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = match self.source.half(name, shape)? {
            Some(tensor) => tensor,
            None => self.source.tensor(name, shape)?,
        };
        self.put(&tensor, self.dtype)
    }

    /// Numbers of the host.
    pub(super) fn numbers(&self, data: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = Tensor::from_vec(data, shape, &Device::Cpu);
        self.put(&tensor.context(|| "wrapping weights")?, dtype)
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
