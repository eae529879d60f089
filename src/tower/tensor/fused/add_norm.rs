//! The residual stream's next value and its RMS norm, which the next product reads.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::element::{Element, by_element, elements};

struct AddNorm {
    epsilon: f32,
}

/// `x + change` and its norm times `weight`, `[rows, width]` each: the norm of the sum as it was rounded.
pub(in crate::tower::tensor) fn add_norm(
    x: &Tensor,
    change: &Tensor,
    weight: &Tensor,
    epsilon: f32,
) -> Result<(Tensor, Tensor)> {
    // One operation gives one tensor: both lie in it, one behind the other.
    let both = x.apply_op3_no_bwd(change, weight, &AddNorm { epsilon })?;
    Ok((both.get(0)?, both.get(1)?))
}

fn shape_of(x: &Layout, change: &Layout, weight: &Layout) -> Result<(usize, usize)> {
    let (rows, width) = x.shape().dims2()?;
    if change.shape() != x.shape() || weight.shape().dims1()? != width {
        candle_core::bail!(
            "{:?} and {:?} are added and scaled by {:?}",
            x.shape(),
            change.shape(),
            weight.shape()
        );
    }
    Ok((rows, width))
}

fn on_cpu<T: Element>((x, change, weight): (&[T], &[T], &[T]), epsilon: f32) -> CpuStorage {
    let width = weight.len().max(1);
    let mut both = vec![T::default(); 2 * x.len()];
    let (sums, normal) = both.split_at_mut(x.len());
    let rows = x.chunks_exact(width).zip(change.chunks_exact(width));
    let outputs = sums.chunks_exact_mut(width).zip(normal.chunks_exact_mut(width));
    for ((x, change), (sum, normal)) in rows.zip(outputs) {
        let mut square = 0f32;
        for ((to, x), change) in sum.iter_mut().zip(x).zip(change) {
            *to = T::rounded(x.read() + change.read());
            square += to.read() * to.read();
        }
        let scale = (square / width as f32 + epsilon).sqrt().recip();
        for ((to, x), weight) in normal.iter_mut().zip(&*sum).zip(weight) {
            *to = T::rounded(x.read() * scale * weight.read());
        }
    }
    T::wrap(both)
}

impl CustomOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        change: &CpuStorage,
        change_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn typed<T: Element>(
            [x, change, weight]: [(&CpuStorage, &Layout); 3],
            epsilon: f32,
        ) -> Result<CpuStorage> {
            let inputs = (
                elements::<T>(x.0, x.1)?,
                elements::<T>(change.0, change.1)?,
                elements::<T>(weight.0, weight.1)?,
            );
            Ok(on_cpu(inputs, epsilon))
        }
        let (rows, width) = shape_of(x_layout, change_layout, weight_layout)?;
        let inputs = [(x, x_layout), (change, change_layout), (weight, weight_layout)];
        Ok((by_element!(x, typed(inputs, self.epsilon))?, Shape::from((2, rows, width))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        x_layout: &Layout,
        change: &candle_core::CudaStorage,
        change_layout: &Layout,
        weight: &candle_core::CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (rows, width) = shape_of(x_layout, change_layout, weight_layout)?;
        let inputs = [(x, x_layout), (change, change_layout), (weight, weight_layout)];
        let out = super::launch::add_norm(inputs, rows, width, self.epsilon)?;
        Ok((out, Shape::from((2, rows, width))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use candle_nn::ops::rms_norm;

    use super::*;
    use crate::tower::testing::close;

    #[test]
    fn it_is_the_sum_and_its_norm() {
        let random =
            |mean, shape: &[usize]| Tensor::randn(mean, 1f32, shape, &Device::Cpu).unwrap();
        let (x, change, weight) = (random(0., &[9, 24]), random(0., &[9, 24]), random(1., &[24]));
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            let [x, change, weight] =
                [&x, &change, &weight].map(|tensor| tensor.to_dtype(dtype).unwrap());
            let (sum, normal) = add_norm(&x, &change, &weight, 1e-5).unwrap();
            let expected = (&x + &change).unwrap();
            close(&sum, &expected, 0.);
            close(&normal, &rms_norm(&expected, &weight, 1e-5).unwrap(), tolerance);
            // Views into one buffer, each without gaps.
            assert!(sum.is_contiguous() && normal.is_contiguous());
        }
        assert!(add_norm(&x, &change.narrow(0, 0, 8).unwrap(), &weight, 1e-5).is_err());
    }
}
