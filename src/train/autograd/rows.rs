//! Rows of a tensor in another order, with gaps filled: from a pack to padded sequences and back.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail,
};

/// Row i of the result is row `from[i]` of the input. The gradient takes the same path back: row j of it is row
/// `back[j]` of the result's, or zero where `back[j]` is filling. candle's own gradient of a selection adds row after
/// row, with one thread a column on a GPU.
///
/// That is the whole gradient where every row of the input is selected once, or every other time by rows whose gradient
/// is zero: those that stand in for tokens that are not there.
#[derive(Clone)]
pub(super) struct Rows {
    from: Tensor,
    back: Tensor,
    /// `[rows of the input, 1]`: 0 where `back` fills a gap; `None` where it has none.
    real: Option<Tensor>,
}

impl Rows {
    /// `from`, `back` and `real` as the fields have them.
    pub(super) fn new(from: &Tensor, back: &Tensor, real: Option<&Tensor>) -> Self {
        Self { from: from.clone(), back: back.clone(), real: real.cloned() }
    }

    pub(super) fn select(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }

    fn shape(&self, layout: &Layout) -> Result<Shape> {
        let (_, width) = layout.shape().dims2()?;
        Ok(Shape::from((self.from.dim(0)?, width)))
    }
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, from_layout) = self.from.storage_and_layout();
        let Storage::Cpu(from) = &*from else { bail!("the rows' order is on another device") };
        Ok((x.index_select(from, layout, from_layout, 0)?, self.shape(layout)?))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (from, from_layout) = self.from.storage_and_layout();
        let Storage::Cuda(from) = &*from else { bail!("the rows' order is on another device") };
        Ok((x.index_select(from, layout, from_layout, 0)?, self.shape(layout)?))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?.index_select(&self.back, 0)?;
        match &self.real {
            Some(real) => grad.broadcast_mul(&real.to_dtype(grad.dtype())?).map(Some),
            None => Ok(Some(grad)),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn the_gradient_goes_back_the_same_way() {
        let new = |values: &[u32]| Tensor::new(values, &Device::Cpu).unwrap();
        let x = Var::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu).unwrap();
        // Sequences of 1 and 2 tokens, padded to 2.
        let (pad, unpad) = (new(&[0, 0, 1, 2]), new(&[0, 2, 3]));
        let real = Tensor::new(&[[1f32], [0.], [1.], [1.]], &Device::Cpu).unwrap();
        let padded = Rows::new(&pad, &unpad, None).select(&x).unwrap();
        let back = Rows::new(&unpad, &pad, Some(&real)).select(&padded).unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
        let weights = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu).unwrap();
        let loss = (&back * &weights).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let found = grads.get(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(found, weights.to_vec2::<f32>().unwrap());
        // What stands in for a token that is not there gets none.
        let grad = Rows::new(&unpad, &pad, Some(&real)).bwd(&padded, &back, &weights).unwrap();
        let rows = grad.unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, [[1., 2.], [0., 0.], [3., 4.], [5., 6.]]);
    }
}
