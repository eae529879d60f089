//! LayerNorm with a backward pass, fused on the CPU.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::kernels::dot;
use super::ops::{ROWS_PER_TASK, fused, values, with_values};

struct LayerNorm {
    epsilon: f32,
}

impl LayerNorm {
    /// Mean and reciprocal deviation of a row.
    fn moments(&self, x: &[f32]) -> (f32, f32) {
        let width = x.len() as f32;
        let mean = x.iter().sum::<f32>() / width;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / width;
        (mean, (variance + self.epsilon).sqrt().recip())
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(x, x_layout)?;
        let (weight, bias) = (values(weight, weight_layout)?, values(bias, bias_layout)?);
        let width = weight.len();
        let mut y = vec![0f32; x.len()];
        let block = width * ROWS_PER_TASK;
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let (mean, scale) = self.moments(x);
                for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                    *y = (x - mean) * scale * w + b;
                }
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let mut dx = vec![0f32; x.elem_count()];
        let (mut dw, mut db) = (vec![0f32; width], vec![0f32; width]);
        with_values(grad, |g| {
            with_values(x, |x| {
                with_values(weight, |weight| {
                    let mut normal = vec![0f32; width];
                    // Row by row: the sums over rows must not depend on the threads.
                    let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((dx, x), g) in rows.zip(g.chunks_exact(width)) {
                        let (mean, scale) = self.moments(x);
                        for (i, x) in x.iter().enumerate() {
                            normal[i] = (x - mean) * scale;
                            dw[i] += g[i] * normal[i];
                            db[i] += g[i];
                            dx[i] = g[i] * weight[i];
                        }
                        let pull = dot(dx, &normal) / width as f32;
                        let shift = dx.iter().sum::<f32>() / width as f32;
                        for (dx, normal) in dx.iter_mut().zip(&normal) {
                            *dx = scale * (*dx - shift - normal * pull);
                        }
                    }
                    Ok(())
                })
            })
        })?;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, weight.shape(), x.device())?),
            Some(Tensor::from_vec(db, bias.shape(), x.device())?),
        ))
    }
}

/// Normalises the last dimension of `x` to mean 0 and variance 1, times `weight`, plus `bias`.
pub(super) fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f64,
) -> Result<Tensor> {
    if fused(x) {
        let op = LayerNorm { epsilon: epsilon as f32 };
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(weight)?.broadcast_add(bias)
}
