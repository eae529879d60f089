//! Between candle and the rest of the program: its errors, the stack it needs, and the numbers in its tensors.
//!
//! Reading numbers back from a GPU waits until it has done all that it was given; then it has nothing to do until more
//! comes. So training reads in [`read_back`] alone, and a step does so once, at its end ([`fetch`]).

#[cfg(test)]
use std::cell::Cell;

use candle_core::{DType, Device, Result as CandleResult, Tensor, WithDType, bail};

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
    read_back(tensor).map_err(tensor_error)
}

/// Numbers that tensors without dimensions hold, which may be on a device: all are read at once.
pub(super) fn fetch<const N: usize>(scalars: [&Tensor; N]) -> CandleResult<[f64; N]> {
    let Some(first) = scalars.first() else { bail!("there is nothing to fetch") };
    let device = first.device();
    let scalars: Vec<Tensor> = scalars
        .iter()
        .map(|scalar| scalar.to_device(device)?.to_dtype(DType::F64))
        .collect::<CandleResult<_>>()?;
    let numbers: Vec<f64> = read_back(&Tensor::stack(&scalars, 0)?)?;
    let Ok(numbers) = numbers.try_into() else { bail!("a fetched tensor has dimensions") };
    Ok(numbers)
}

/// The elements of a tensor, in row-major order. It waits for the tensor's device.
pub(super) fn read_back<T: WithDType>(tensor: &Tensor) -> CandleResult<Vec<T>> {
    #[cfg(test)]
    READ_BACKS.set(READ_BACKS.get() + 1);
    tensor.to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1()
}

#[cfg(test)]
thread_local! {
    static READ_BACKS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has read numbers back.
#[cfg(test)]
pub(super) fn read_backs() -> u64 {
    READ_BACKS.get()
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
