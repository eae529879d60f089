//! What a device reaches at best.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};

use crate::error::ResultExt;

/// Tokens per second that `device` would encode if it did nothing but the products with the layers' weights, `products`
/// multiply-adds a token, at the rate of a large product.
pub(crate) fn ceiling(products: usize, device: &Device, dtype: DType) -> crate::error::Result<f64> {
    let operations = operations(device, dtype).context(|| "measuring the device")?;
    Ok(operations / (2 * products) as f64)
}

/// Operations per second in products of the size at which a GPU is at its best.
fn operations(device: &Device, dtype: DType) -> Result<f64> {
    let n = if device.is_cpu() { 256 } else { 8192 };
    let matrix = || Tensor::randn(0f32, 1., (n, n), device)?.to_dtype(dtype);
    let (a, b) = (matrix()?, matrix()?);
    let product = |times: usize| {
        for _ in 0..times {
            a.matmul(&b)?;
        }
        device.synchronize()
    };
    product(3)?;
    let (begun, times) = (Instant::now(), 10);
    product(times)?;
    let seconds = begun.elapsed().as_secs_f64().max(1e-9);
    Ok((2 * times) as f64 * (n as f64).powi(3) / seconds)
}
