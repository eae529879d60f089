//! Linear layers with a backward pass of their own: frozen, trained, and frozen with a low-rank update.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage,
    Tensor, bail,
};

use super::ops::{fused, gradient, values, with_all, with_values};
use crate::kernel::{
    FrozenMatrix, LowRank, Target, View, product, rounded_product, rounded_product_of_rows,
    transposed,
};

// ---- frozen linear layer -------------------------------------------------------------------------------------

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
            Self::Packed(packed) => packed.forward(x, None, y),
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
            Self::Packed(packed) if add => packed.backward_add(g, dx),
            Self::Packed(packed) => packed.backward(g, None, dx, &mut []),
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
        if matches!(x, CpuStorage::F32(_)) {
            let mut y = vec![0f32; rows * out];
            self.weight.forward(values(x, layout)?, rows, &mut y)?;
            return Ok((CpuStorage::F32(y), (rows, out).into()));
        }
        let Weight::Tensor(weight) = &self.weight else { bail!("packed weights take f32") };
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

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !fused(x) {
            let Weight::Tensor(weight) = &self.weight else { bail!("packed weights take f32") };
            return Ok(Some(grad.contiguous()?.matmul(weight)?));
        }
        let mut dx = vec![0f32; x.elem_count()];
        with_values(grad, |g| self.weight.backward(g, x.dim(0)?, &mut dx, false))?;
        gradient(dx, x)
    }
}

/// `x W^T` for `x` `[rows, in]` and a frozen `weight` `[out, in]`.
pub(crate) fn frozen_linear(x: &Tensor, weight: &Weight) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenLinear { weight: weight.clone() })
}

// ---- trained linear layer ------------------------------------------------------------------------------------

/// `x W^T` where W is a parameter and products are of numbers rounded to bf16.
struct RoundedLinear;

impl CustomOp2 for RoundedLinear {
    fn name(&self) -> &'static str {
        "rounded-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, input) = x_layout.shape().dims2()?;
        let (out, width) = weight_layout.shape().dims2()?;
        if width != input {
            bail!("input of width {input} for a weight of shape [{out}, {width}]");
        }
        let mut y = vec![0f32; rows * out];
        let (x, weight) = (values(x, x_layout)?, values(weight, weight_layout)?);
        rounded_product(x, weight, input, &mut y);
        Ok((CpuStorage::F32(y), (rows, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, input), out) = (x.dims2()?, weight.dim(0)?);
        let mut dx = vec![0f32; rows * input];
        let mut dw = vec![0f32; out * input];
        with_all([grad, x, weight], |[g, x, w]| {
            rounded_product_of_rows(g, w, out, &mut dx, false);
            rounded_product_of_rows(&transposed(g, rows, out), x, rows, &mut dw, false);
            Ok(())
        })?;
        Ok((gradient(dx, x)?, gradient(dw, weight)?))
    }
}

/// `x W^T` for `x` `[rows, in]` and a parameter `weight` `[out, in]`; `round`: its products are of numbers rounded to bf16,
/// sums, parameters and gradients stay f32 (on the CPU).
pub(crate) fn trained_linear(x: &Tensor, weight: &Tensor, round: bool) -> Result<Tensor> {
    if round && fused(x) {
        return x.contiguous()?.apply_op2(&weight.contiguous()?, RoundedLinear);
    }
    x.matmul(&weight.t()?)
}

// ---- LoRA linear layer ---------------------------------------------------------------------------------------

/// `x W^T + scale (x A^T) B^T` with W frozen, in one pass over the output.
struct LoraLinear {
    weight: Weight,
    scale: f32,
}

impl CustomOp3 for LoraLinear {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, a, b) = (values(x, x_layout)?, values(a, a_layout)?, values(b, b_layout)?);
        let (rows, input) = x_layout.shape().dims2()?;
        let rank = a_layout.shape().dims2()?.0;
        let out = b_layout.shape().dims2()?.0;
        let mut y = vec![0f32; rows * out];
        if let Weight::Packed(weight) = &self.weight {
            weight.forward(x, Some(LowRank { a, b, rank, scale: self.scale }), &mut y);
            return Ok((CpuStorage::F32(y), (rows, out).into()));
        }
        self.weight.forward(x, rows, &mut y)?;
        let mut low = vec![0f32; rows * rank];
        let target = Target { data: &mut low, stride: rank, accumulate: false };
        let shape = (rows, rank, input);
        product(target, shape, 1.0, View::rows(x, input), View::rows(a, input).t(), true);
        let target = Target { data: &mut y, stride: out, accumulate: true };
        let shape = (rows, out, rank);
        product(target, shape, self.scale, View::rows(&low, rank), View::rows(b, rank).t(), true);
        Ok((CpuStorage::F32(y), (rows, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, input) = x.dims2()?;
        let (rank, out) = (a.dim(0)?, b.dim(0)?);
        let mut dx = vec![0f32; rows * input];
        let mut da = vec![0f32; rank * input];
        let mut db = vec![0f32; out * rank];
        let mut low = vec![0f32; rows * rank];
        let mut dlow = vec![0f32; rows * rank];
        with_all([grad, x, a, b], |[g, x, a, b]| {
            let (g_view, x_view) = (View::rows(g, out), View::rows(x, input));
            if let Weight::Packed(weight) = &self.weight {
                let low_rank = LowRank { a, b, rank, scale: self.scale };
                weight.backward(g, Some(low_rank), &mut dx, &mut dlow);
                weight.project(x, a, rank, &mut low);
            } else {
                self.weight.backward(g, rows, &mut dx, false)?;
                let (a, b) = (View::rows(a, input), View::rows(b, rank));
                let target = Target { data: &mut dlow, stride: rank, accumulate: false };
                product(target, (rows, rank, out), self.scale, g_view, b, true);
                let target = Target { data: &mut low, stride: rank, accumulate: false };
                product(target, (rows, rank, input), 1.0, x_view, a.t(), true);
                let target = Target { data: &mut dx, stride: input, accumulate: true };
                product(target, (rows, input, rank), 1.0, View::rows(&dlow, rank), a, true);
            }
            let target = Target { data: &mut da, stride: input, accumulate: false };
            product(target, (rank, input, rows), 1.0, View::rows(&dlow, rank).t(), x_view, true);
            let target = Target { data: &mut db, stride: rank, accumulate: false };
            let low = View::rows(&low, rank);
            product(target, (out, rank, rows), self.scale, g_view.t(), low, true);
            Ok(())
        })?;
        Ok((gradient(dx, x)?, gradient(da, a)?, gradient(db, b)?))
    }
}

/// `x W^T + scale (x A^T) B^T` for `x` `[rows, in]`, frozen `weight` `[out, in]`, `a` `[rank, in]`, `b` `[out, rank]`.
pub(crate) fn lora_linear(
    x: &Tensor,
    weight: &Weight,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    if fused(x) {
        let op = LoraLinear { weight: weight.clone(), scale: scale as f32 };
        return x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op);
    }
    let low = x.matmul(&a.to_dtype(x.dtype())?.t()?)?;
    let delta = (low.matmul(&b.to_dtype(x.dtype())?.t()?)? * scale)?;
    frozen_linear(x, weight)? + delta
}
