//! The elements that towers compute in, and plain loops over them.

use candle_core::{CpuStorage, Layout, Result, bail};
use half::{bf16, f16};

/// Read as f32, written rounded.
pub(super) trait Element: Copy + Default {
    fn read(self) -> f32;
    fn rounded(value: f32) -> Self;
    fn wrap(values: Vec<Self>) -> CpuStorage;
    fn slice(storage: &CpuStorage) -> Result<&[Self]>;
}

macro_rules! element {
    ($type:ty, $variant:ident, $read:expr, $rounded:expr) => {
        impl Element for $type {
            fn read(self) -> f32 {
                $read(self)
            }

            fn rounded(value: f32) -> Self {
                $rounded(value)
            }

            fn wrap(values: Vec<Self>) -> CpuStorage {
                CpuStorage::$variant(values)
            }

            fn slice(storage: &CpuStorage) -> Result<&[Self]> {
                storage.as_slice::<Self>()
            }
        }
    };
}

element!(f32, F32, |x| x, |x| x);
element!(f16, F16, f16::to_f32, f16::from_f32);
element!(bf16, BF16, bf16::to_f32, bf16::from_f32);

/// The elements of a contiguous tensor.
pub(super) fn elements<'a, T: Element>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [T]> {
    let (start, end) = range(layout)?;
    Ok(&T::slice(storage)?[start..end])
}

/// Where a contiguous tensor is in its storage.
pub(super) fn range(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(range) => Ok(range),
        None => bail!("a fused step needs contiguous input"),
    }
}

/// Calls a function of one type parameter with the type of a storage's elements.
macro_rules! by_element {
    ($storage:expr, $function:ident($($argument:expr),*)) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => $function::<f32>($($argument),*),
            candle_core::CpuStorage::F16(_) => $function::<half::f16>($($argument),*),
            candle_core::CpuStorage::BF16(_) => $function::<half::bf16>($($argument),*),
            _ => candle_core::bail!("a fused step computes in f32, f16 or bf16"),
        }
    };
}
pub(super) use by_element;
