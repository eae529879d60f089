//! The residual stream's next value and its norm, which the next product reads.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::element::{Element, by_element, elements};

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tower::tensor) enum NormKind {
    /// By the root of the mean square. Its table is the weight.
    Rms,
    /// Around the mean, by the standard deviation. Its table has three rows: what is added to `change` before, the
    /// weight, and what is added at the end.
    Layer,
}

struct AddNorm {
    kind: NormKind,
    epsilon: f32,
}

/// `x + change` and its norm by `table`, `[rows, width]` each: the norm of the sum as it was rounded.
pub(in crate::tower::tensor) fn add_norm(
    x: &Tensor,
    change: &Tensor,
    table: &Tensor,
    (kind, epsilon): (NormKind, f32),
) -> Result<(Tensor, Tensor)> {
    // One operation gives one tensor: both are in it, one behind the other.
    let both = x.apply_op3_no_bwd(change, table, &AddNorm { kind, epsilon })?;
    Ok((both.get(0)?, both.get(1)?))
}

impl AddNorm {
    fn shape_of(&self, x: &Layout, change: &Layout, table: &Layout) -> Result<(usize, usize)> {
        let (rows, width) = x.shape().dims2()?;
        let fits = match self.kind {
            NormKind::Rms => table.dims() == [width],
            NormKind::Layer => table.dims() == [3, width],
        };
        if change.shape() != x.shape() || !fits {
            candle_core::bail!(
                "{:?} and {:?} are added and scaled by {:?}",
                x.shape(),
                change.shape(),
                table.shape()
            );
        }
        Ok((rows, width))
    }

    fn on_cpu<T: Element>(&self, width: usize, [x, change, table]: [&[T]; 3]) -> CpuStorage {
        let width = width.max(1);
        let (centred, table) = match self.kind {
            NormKind::Rms => (false, [&[][..], table, &[]]),
            NormKind::Layer => {
                let (add, rest) = table.split_at(width);
                let (weight, bias) = rest.split_at(width);
                (true, [add, weight, bias])
            }
        };
        let [add, weight, bias] = table;
        let of = |row: &[T], at: usize| row.get(at).map_or(0., |x| x.read());
        let mut both = vec![T::default(); 2 * x.len()];
        let (sums, normal) = both.split_at_mut(x.len());
        let rows = x.chunks_exact(width).zip(change.chunks_exact(width));
        let outputs = sums.chunks_exact_mut(width).zip(normal.chunks_exact_mut(width));
        for ((x, change), (sum, normal)) in rows.zip(outputs) {
            let mut total = 0f32;
            for (at, (to, (x, change))) in sum.iter_mut().zip(x.iter().zip(change)).enumerate() {
                *to = T::rounded(x.read() + (change.read() + of(add, at)));
                total += to.read();
            }
            let mean = if centred { total / width as f32 } else { 0. };
            let square: f32 = sum.iter().map(|x| (x.read() - mean) * (x.read() - mean)).sum();
            let scale = (square / width as f32 + self.epsilon).sqrt().recip();
            for (at, (to, x)) in normal.iter_mut().zip(&*sum).enumerate() {
                *to = T::rounded((x.read() - mean) * scale * of(weight, at) + of(bias, at));
            }
        }
        T::wrap(both)
    }
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
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn typed<T: Element>(
            step: &AddNorm,
            width: usize,
            [x, change, table]: [(&CpuStorage, &Layout); 3],
        ) -> Result<CpuStorage> {
            let inputs = [
                elements::<T>(x.0, x.1)?,
                elements::<T>(change.0, change.1)?,
                elements::<T>(table.0, table.1)?,
            ];
            Ok(step.on_cpu(width, inputs))
        }
        let (rows, width) = self.shape_of(x_layout, change_layout, table_layout)?;
        let inputs = [(x, x_layout), (change, change_layout), (table, table_layout)];
        Ok((by_element!(x, typed(self, width, inputs))?, Shape::from((2, rows, width))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        x_layout: &Layout,
        change: &candle_core::CudaStorage,
        change_layout: &Layout,
        table: &candle_core::CudaStorage,
        table_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (rows, width) = self.shape_of(x_layout, change_layout, table_layout)?;
        let inputs = [(x, x_layout), (change, change_layout), (table, table_layout)];
        let kernel = match self.kind {
            NormKind::Rms => "add_norm",
            NormKind::Layer => "add_layer_norm",
        };
        let out = super::launch::add_norm(inputs, rows, width, (kernel, self.epsilon))?;
        Ok((out, Shape::from((2, rows, width))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use candle_nn::ops::{layer_norm, rms_norm};

    use super::*;
    use crate::tower::testing::close;

    #[test]
    fn it_is_the_sum_and_its_norm() {
        let random =
            |mean, shape: &[usize]| Tensor::randn(mean, 1f32, shape, &Device::Cpu).unwrap();
        let (x, change, weight) = (random(0., &[9, 24]), random(3., &[9, 24]), random(1., &[24]));
        let table = random(0., &[3, 24]);
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            let [x, change, weight, table] =
                [&x, &change, &weight, &table].map(|tensor| tensor.to_dtype(dtype).unwrap());
            let (sum, normal) = add_norm(&x, &change, &weight, (NormKind::Rms, 1e-5)).unwrap();
            let expected = (&x + &change).unwrap();
            close(&sum, &expected, 0.);
            close(&normal, &rms_norm(&expected, &weight, 1e-5).unwrap(), tolerance);
            // Views into one buffer, each without gaps.
            assert!(sum.is_contiguous() && normal.is_contiguous());

            let (sum, normal) = add_norm(&x, &change, &table, (NormKind::Layer, 1e-5)).unwrap();
            let row = |at: usize| table.get(at).unwrap();
            let expected = (&x + change.broadcast_add(&row(0)).unwrap()).unwrap();
            close(&sum, &expected, tolerance);
            close(&normal, &layer_norm(&sum, &row(1), &row(2), 1e-5).unwrap(), tolerance);
        }
        let fewer = change.narrow(0, 0, 8).unwrap();
        assert!(add_norm(&x, &fewer, &weight, (NormKind::Rms, 1e-5)).is_err());
        assert!(add_norm(&x, &change, &weight, (NormKind::Layer, 1e-5)).is_err());
    }
}
