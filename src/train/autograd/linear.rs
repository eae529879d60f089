//! The weights of linear layers, on tensors and on slices.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::ops::with_values;
use crate::kernel::{FrozenMatrix, Target, View, product, rounded_product_of_rows, transposed};

/// The weight `[out, in]` of a linear layer.
#[derive(Clone)]
pub(crate) enum Weight {
    /// As the model computes; perhaps a parameter.
    Tensor(Tensor),
    /// As it was when it was packed, rounded to bf16 for the processor's kernels; everything around the products stays f32.
    Packed(Arc<FrozenMatrix>),
}

impl Weight {
    /// Rounds an f32 weight on the CPU.
    pub(crate) fn pack(weight: &Tensor) -> Result<Self> {
        let (out, input) = weight.dims2()?;
        with_values(weight, |values| {
            Ok(Self::Packed(Arc::new(FrozenMatrix::new(values, out, input))))
        })
    }

    /// Whether it is a parameter.
    pub(crate) fn is_variable(&self) -> bool {
        matches!(self, Self::Tensor(tensor) if tensor.is_variable())
    }

    /// The same, cut off from the graph.
    pub(crate) fn detach(&self) -> Self {
        match self {
            Self::Tensor(tensor) => Self::Tensor(tensor.detach()),
            Self::Packed(_) => self.clone(),
        }
    }

    /// (out, in).
    pub(crate) fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Tensor(tensor) => tensor.dims2(),
            Self::Packed(packed) => Ok(packed.shape()),
        }
    }

    /// `y = x W^T` on the CPU, for `x` `[rows, in]`.
    pub(crate) fn forward(&self, x: &[f32], rows: usize, y: &mut [f32]) -> Result<()> {
        let (out, input) = self.shape()?;
        match self {
            Self::Packed(packed) => packed.forward(x, None, y, &mut []),
            Self::Tensor(weight) => with_values(weight, |weight| {
                let target = Target { data: y, stride: out, accumulate: false };
                let weight = View::rows(weight, input).t();
                product(target, (rows, out, input), 1.0, View::rows(x, input), weight, true);
                Ok(())
            })?,
        }
        Ok(())
    }

    /// `dx = g W`, or `+=` where it is to `add`, on the CPU, for `g` `[rows, out]`.
    pub(crate) fn backward(&self, g: &[f32], rows: usize, dx: &mut [f32], add: bool) -> Result<()> {
        let (out, input) = self.shape()?;
        match self {
            Self::Packed(packed) => packed.backward(g, None, dx, add, &mut []),
            Self::Tensor(weight) => with_values(weight, |weight| {
                let target = Target { data: dx, stride: input, accumulate: add };
                let weight = View::rows(weight, input);
                product(target, (rows, input, out), 1.0, View::rows(g, out), weight, true);
                Ok(())
            })?,
        }
        Ok(())
    }

    /// `dw += g^T x` on the CPU, for `g` `[rows, out]` and `x` `[rows, in]`, in the arithmetic of the other products.
    pub(crate) fn gradient(&self, g: &[f32], x: &[f32], rows: usize, dw: &mut [f32]) -> Result<()> {
        let (out, input) = self.shape()?;
        match self {
            Self::Packed(_) => {
                rounded_product_of_rows(&transposed(g, rows, out), x, rows, dw, true);
            }
            Self::Tensor(_) => {
                let target = Target { data: dw, stride: input, accumulate: true };
                let (g, x) = (View::rows(g, out).t(), View::rows(x, input));
                product(target, (out, input, rows), 1.0, g, x, true);
            }
        }
        Ok(())
    }
}

/// `x W^T` where W is no parameter: backward gives the gradient of x alone, and candle's product would also
/// compute the gradient of W.
struct FrozenLinear {
    weight: Weight,
}

impl FrozenLinear {
    /// Rows of x, and its layer's (out, in).
    fn dims(&self, layout: &Layout) -> Result<(usize, usize, usize)> {
        let (out, input) = self.weight.shape()?;
        let (rows, width) = layout.shape().dims2()?;
        if width != input {
            bail!("input of width {width} for a weight of shape [{out}, {input}]");
        }
        Ok((rows, out, input))
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, out, input) = self.dims(layout)?;
        let Weight::Tensor(weight) = &self.weight else { bail!("packed weights take slices") };
        let transposed = weight.t()?;
        let (weight, weight_layout) = transposed.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { bail!("weight is on another device") };
        let y = x.matmul(weight, (1, rows, out, input), layout, weight_layout)?;
        Ok((y, (rows, out).into()))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, out, input) = self.dims(layout)?;
        let Weight::Tensor(weight) = &self.weight else { bail!("packed weights are the CPU's") };
        let transposed = weight.t()?;
        let (weight, weight_layout) = transposed.storage_and_layout();
        let Storage::Cuda(weight) = &*weight else { bail!("weight is on another device") };
        let y = x.matmul(weight, (1, rows, out, input), layout, weight_layout)?;
        Ok((y, (rows, out).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Weight::Tensor(weight) = &self.weight else { bail!("packed weights take slices") };
        Ok(Some(grad.contiguous()?.matmul(weight)?))
    }
}

/// `x W^T` for `x` `[rows, in]` and a frozen `weight` `[out, in]`.
pub(crate) fn frozen_linear(x: &Tensor, weight: &Weight) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenLinear { weight: weight.clone() })
}

/// `x W^T + scale (x A^T) B^T` for `x` `[rows, in]`, frozen `weight` `[out, in]`, `a` `[rank, in]`, `b` `[out, rank]`.
pub(crate) fn lora_linear(
    x: &Tensor,
    weight: &Weight,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let low = x.matmul(&a.to_dtype(x.dtype())?.t()?)?;
    let delta = (low.matmul(&b.to_dtype(x.dtype())?.t()?)? * scale)?;
    frozen_linear(x, weight)? + delta
}
