//! Between candle and the rest of the program: its errors, the stack it needs, and the numbers in its tensors.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::tower::is_out_of_memory;

/// Bytes of stack of a thread that trains: the tensor library walks a graph by recursion.
pub(super) const STACK: usize = 64 << 20;

/// Turns an error of the tensor library into ours: Resource, where less at once may do.
pub(super) fn tensor_error(error: candle_core::Error) -> Error {
    let text = error.to_string();
    if is_out_of_memory(&text) {
        return Error::new(ErrorKind::Resource, format!("the device is out of memory: {text}"));
    }
    Error::internal(format!("tensor operation failed: {text}"))
}

/// The elements of a tensor as f32, in row-major order.
pub(super) fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor
        .to_device(&Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F32))
        .and_then(|t| t.flatten_all())
        .and_then(|t| t.to_vec1())
        .map_err(tensor_error)
}

/// Little-endian f32.
pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    encoded(values, f32::to_le_bytes)
}

/// Little-endian f16.
pub(super) fn half_bytes(values: &[f32]) -> Vec<u8> {
    encoded(values, |value| half::f16::from_f32(value).to_le_bytes())
}

/// A number at a time: byte by byte, a checkpoint of a small tower takes seconds.
fn encoded<const N: usize>(values: &[f32], one: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let mut all = vec![0; values.len() * N];
    for (place, value) in all.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *place = one(*value);
    }
    all
}
