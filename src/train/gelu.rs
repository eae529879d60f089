//! GELU of a sum with a bias, with a backward pass, fused on the CPU.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::kernels::add_columns;
use super::ops::{ROWS_PER_TASK, fused, values, with_all};
use crate::tower::{Isa, Kernel, Simd, normal};

/// `y = gelu(x + bias)` for rows of the bias's width.
struct Forward<'a> {
    x: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.bias.len();
        for (y, x) in self.y.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            for ((y, x), b) in y.iter_mut().zip(x).zip(self.bias) {
                let x = x + b;
                *y = x * normal(x).0;
            }
        }
    }
}

/// The gradient of the sum.
struct Backward<'a> {
    x: &'a [f32],
    bias: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.bias.len();
        let inputs = self.x.chunks_exact(width).zip(self.grad.chunks_exact(width));
        for (dx, (x, grad)) in self.dx.chunks_exact_mut(width).zip(inputs) {
            for ((dx, g), (x, b)) in dx.iter_mut().zip(grad).zip(x.iter().zip(self.bias)) {
                let x = x + b;
                let (up_to, density) = normal(x);
                *dx = g * (up_to + x * density);
            }
        }
    }
}

struct BiasedGelu;

impl CustomOp2 for BiasedGelu {
    fn name(&self) -> &'static str {
        "biased-gelu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (values(x, layout)?, values(bias, bias_layout)?);
        let mut y = vec![0f32; x.len()];
        let block = bias.len() * ROWS_PER_TASK;
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
            Isa::best().run(Forward { x, bias, y });
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dx = vec![0f32; x.elem_count()];
        let mut db = vec![0f32; bias.elem_count()];
        with_all([grad, x, bias], |[grad, x, bias]| {
            let block = bias.len() * ROWS_PER_TASK;
            let inputs = x.par_chunks(block).zip(grad.par_chunks(block));
            dx.par_chunks_mut(block).zip(inputs).for_each(|(dx, (x, grad))| {
                Isa::best().run(Backward { x, bias, grad, dx });
            });
            add_columns(&dx, &mut db);
            Ok(())
        })?;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(db, bias.shape(), bias.device())?),
        ))
    }
}

/// `gelu(x + bias)`, by the error function, for `x` `[rows, width]` and `bias` `[width]`.
pub(super) fn biased_gelu(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if fused(x) {
        return x.contiguous()?.apply_op2(&bias.contiguous()?, BiasedGelu);
    }
    x.broadcast_add(bias)?.gelu_erf()
}
