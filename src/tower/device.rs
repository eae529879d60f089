//! A device that candle computes on, and the batches that it is at.

use candle_core::{DType, Device};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::model::shape::Shape;
use crate::tower::tensor::Landing;
use crate::tower::{Computed, Running};
use crate::types::Arithmetic;

/// Opens a CUDA device, with a stream of its own: the other kind differs from thread to thread, and tasks do change
/// threads.
///
/// # Errors
/// Unsupported, where there is none or the program was built without feature `cuda`.
pub fn open_cuda(number: usize) -> Result<Device> {
    Device::new_cuda_with_stream(number).or_error(ErrorKind::Unsupported, || {
        let why = match cfg!(feature = "cuda") {
            true => "the device must exist and its driver must know the CUDA of this program",
            false => "this program was built without feature `cuda`",
        };
        format!("cannot open CUDA device {number}: {why}; use a cpu device instead")
    })
}

/// The elements that candle's tensors have for a class of arithmetic.
///
/// # Errors
/// Unsupported for int8.
pub(super) fn element(arithmetic: Arithmetic) -> Result<DType> {
    match arithmetic {
        Arithmetic::F32 => Ok(DType::F32),
        Arithmetic::Bf16 => Ok(DType::BF16),
        Arithmetic::F16 => Ok(DType::F16),
        Arithmetic::Int8 => Err(Error::unsupported(
            "arithmetic = \"int8\" is not supported on a CUDA device; it supports f32, bf16 and f16",
        )),
    }
}

/// A batch that a device computes.
pub(super) struct OnDevice {
    pub(super) landing: Landing,
    pub(super) shape: Shape,
}

impl Running for OnDevice {
    fn finish(self: Box<Self>) -> Result<Computed> {
        let (states, seconds) = self.landing.wait()?;
        Ok(Computed { vectors: self.shape.vectors(&states), seconds })
    }
}
