//! Differentiable building blocks with a backward pass of their own: on the CPU in f32 they are fused, elsewhere
//! they are composed of candle operations. Custom operations of candle-nn have no backward pass, hence these.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape,
    Storage, Tensor, bail,
};
use rayon::prelude::*;

use super::kernels::{Target, View, dot, product};

/// Rows handled by one task of the thread pool.
const ROWS_PER_TASK: usize = 64;

/// Whether the fused kernels apply.
pub(super) fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The values of a contiguous f32 tensor on the CPU.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused operation needs contiguous input"),
    }
}

/// Calls `f` with the values of a tensor (made contiguous).
pub(super) fn with_values<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(values(storage, layout)?),
        _ => bail!("a fused operation needs a tensor on the CPU"),
    }
}

// ---- frozen linear layer -------------------------------------------------------------------------------------

/// `x W^T` where W is no parameter: backward gives the gradient of x alone, and candle's product would also
/// compute the gradient of W.
struct FrozenLinear {
    /// `[out, in]`.
    weight: Tensor,
}

impl FrozenLinear {
    fn dims(&self, layout: &Layout) -> Result<(usize, usize, usize)> {
        let (out, input) = self.weight.dims2()?;
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
        let transposed = self.weight.t()?;
        let (weight, weight_layout) = transposed.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { bail!("weight is on another device") };
        let y = x.matmul(weight, (1, rows, out, input), layout, weight_layout)?;
        Ok((y, (rows, out).into()))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, out, input) = self.dims(layout)?;
        let transposed = self.weight.t()?;
        let (weight, weight_layout) = transposed.storage_and_layout();
        let Storage::Cuda(weight) = &*weight else { bail!("weight is on another device") };
        let y = x.matmul(weight, (1, rows, out, input), layout, weight_layout)?;
        Ok((y, (rows, out).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.matmul(&self.weight)?))
    }
}

/// `x W^T` for `x` `[rows, in]` and a frozen `weight` `[out, in]`.
pub(super) fn frozen_linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenLinear { weight: weight.clone() })
}

// ---- LoRA linear layer ---------------------------------------------------------------------------------------

/// `x W^T + scale (x A^T) B^T` with W frozen, in one pass over the output.
struct LoraLinear {
    weight: Tensor,
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
        let mut low = vec![0f32; rows * rank];
        with_values(&self.weight, |weight| {
            let target = Target { data: &mut y, stride: out, accumulate: false };
            let shape = (rows, out, input);
            product(target, shape, 1.0, View::rows(x, input), View::rows(weight, input).t(), true);
            Ok(())
        })?;
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
        with_values(grad, |g| {
            let g = View::rows(g, out);
            with_values(&self.weight, |weight| {
                let target = Target { data: &mut dx, stride: input, accumulate: false };
                product(target, (rows, input, out), 1.0, g, View::rows(weight, input), true);
                Ok(())
            })?;
            with_values(b, |b| {
                let target = Target { data: &mut dlow, stride: rank, accumulate: false };
                product(target, (rows, rank, out), self.scale, g, View::rows(b, rank), true);
                Ok(())
            })?;
            with_values(x, |x| {
                let x = View::rows(x, input);
                with_values(a, |a| {
                    let a = View::rows(a, input);
                    let target = Target { data: &mut low, stride: rank, accumulate: false };
                    product(target, (rows, rank, input), 1.0, x, a.t(), true);
                    let target = Target { data: &mut dx, stride: input, accumulate: true };
                    product(target, (rows, input, rank), 1.0, View::rows(&dlow, rank), a, true);
                    Ok(())
                })?;
                let target = Target { data: &mut da, stride: input, accumulate: false };
                product(target, (rank, input, rows), 1.0, View::rows(&dlow, rank).t(), x, true);
                Ok(())
            })?;
            let target = Target { data: &mut db, stride: rank, accumulate: false };
            product(target, (out, rank, rows), self.scale, g.t(), View::rows(&low, rank), true);
            Ok(())
        })?;
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, (rows, input), device)?),
            Some(Tensor::from_vec(da, (rank, input), device)?),
            Some(Tensor::from_vec(db, (out, rank), device)?),
        ))
    }
}

/// `x W^T + scale (x A^T) B^T` for `x` `[rows, in]`, frozen `weight` `[out, in]`, `a` `[rank, in]`, `b` `[out, rank]`.
pub(super) fn lora_linear(
    x: &Tensor,
    weight: &Tensor,
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

// ---- RMSNorm -------------------------------------------------------------------------------------------------

struct RmsNorm {
    epsilon: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (values(x, x_layout)?, values(weight, weight_layout)?);
        let width = weight.len();
        let mut y = vec![0f32; x.len()];
        let block = width * ROWS_PER_TASK;
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let scale = (dot(x, x) / width as f32 + self.epsilon).sqrt().recip();
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * scale * w;
                }
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let mut dx = vec![0f32; x.elem_count()];
        let mut dw = vec![0f32; if weight.is_variable() { width } else { 0 }];
        with_values(grad, |g| {
            with_values(x, |x| {
                with_values(weight, |weight| {
                    let block = width * ROWS_PER_TASK;
                    let blocks = dx.par_chunks_mut(block).zip(x.par_chunks(block));
                    blocks.zip(g.par_chunks(block)).for_each(|((dx, x), g)| {
                        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                        for ((dx, x), g) in rows.zip(g.chunks_exact(width)) {
                            let scale = (dot(x, x) / width as f32 + self.epsilon).sqrt().recip();
                            for ((dx, g), w) in dx.iter_mut().zip(g).zip(weight) {
                                *dx = g * w;
                            }
                            let pull = dot(dx, x) * scale * scale / width as f32;
                            for (dx, x) in dx.iter_mut().zip(x) {
                                *dx = scale * (*dx - x * pull);
                            }
                        }
                    });
                    if !dw.is_empty() {
                        // One after the other: the sum over rows must not depend on the threads.
                        for (x, g) in x.chunks_exact(width).zip(g.chunks_exact(width)) {
                            let scale = (dot(x, x) / width as f32 + self.epsilon).sqrt().recip();
                            for ((dw, x), g) in dw.iter_mut().zip(x).zip(g) {
                                *dw += g * x * scale;
                            }
                        }
                    }
                    Ok(())
                })
            })
        })?;
        let dw = match weight.is_variable() {
            true => Some(Tensor::from_vec(dw, weight.shape(), weight.device())?),
            false => None,
        };
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), dw))
    }
}

/// Root-mean-square normalisation over the last dimension of `x`, times `weight`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    if fused(x) {
        let op = RmsNorm { epsilon: epsilon as f32 };
        return x.contiguous()?.apply_op2(&weight.contiguous()?, op);
    }
    let wide = x.to_dtype(DType::F32)?;
    let scale = (wide.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
    let normal = wide.broadcast_div(&scale)?.to_dtype(x.dtype())?;
    normal.broadcast_mul(&weight.to_dtype(x.dtype())?)
}

// ---- SwiGLU --------------------------------------------------------------------------------------------------

struct SwiGlu;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// e^x within 2 ulp by a polynomial that becomes vector code; `f32::exp` is a call per element.
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts, so that the remainder keeps its bits.
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    value * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (values(gate, gate_layout)?, values(up, up_layout)?);
        let mut y = vec![0f32; gate.len()];
        const BLOCK: usize = 1 << 15;
        let blocks = y.par_chunks_mut(BLOCK).zip(gate.par_chunks(BLOCK));
        blocks.zip(up.par_chunks(BLOCK)).for_each(|((y, gate), up)| {
            for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                *y = g * sigmoid(*g) * u;
            }
        });
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dgate = vec![0f32; gate.elem_count()];
        let mut dup = vec![0f32; gate.elem_count()];
        with_values(grad, |grad| {
            with_values(gate, |gate| {
                with_values(up, |up| {
                    const BLOCK: usize = 1 << 15;
                    let outputs = dgate.par_chunks_mut(BLOCK).zip(dup.par_chunks_mut(BLOCK));
                    let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
                    let blocks = outputs.zip(inputs).zip(grad.par_chunks(BLOCK));
                    blocks.for_each(|(((dgate, dup), (gate, up)), grad)| {
                        let outputs = dgate.iter_mut().zip(dup);
                        let inputs = gate.iter().zip(up).zip(grad);
                        for ((dg, du), ((g, u), d)) in outputs.zip(inputs) {
                            let s = sigmoid(*g);
                            *du = d * g * s;
                            *dg = d * u * s * (1.0 + g * (1.0 - s));
                        }
                    });
                    Ok(())
                })
            })
        })?;
        Ok((
            Some(Tensor::from_vec(dgate, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(dup, up.shape(), up.device())?),
        ))
    }
}

/// `silu(gate) * up`.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if fused(gate) {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu);
    }
    gate.silu()? * up
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::dataset::SplitMix64;

    fn random(rng: &mut SplitMix64, shape: (usize, usize)) -> Var {
        let data: Vec<f32> = (0..shape.0 * shape.1).map(|_| rng.normal() as f32).collect();
        Var::from_vec(data, shape, &Device::Cpu).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
        let a = a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let b = b.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let scale = b.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (x, y) in a.iter().zip(&b) {
            assert!((x - y).abs() <= tolerance * scale, "{x} {y} of {scale}");
        }
    }

    /// Values and gradients of a fused operation equal those of the same formula in candle operations.
    fn same(
        inputs: &[&Var],
        fused: impl Fn() -> Result<Tensor>,
        composed: impl Fn() -> Result<Tensor>,
    ) {
        let (a, b) = (fused().unwrap(), composed().unwrap());
        close(&a, &b, 1e-5);
        let mut rng = SplitMix64::new(9);
        let direction = random(&mut rng, a.dims2().unwrap());
        let grads = |y: &Tensor| (y * direction.as_tensor()).unwrap().sum_all().unwrap().backward();
        let (ga, gb) = (grads(&a).unwrap(), grads(&b).unwrap());
        for input in inputs {
            close(ga.get(input).unwrap(), gb.get(input).unwrap(), 2e-5);
        }
    }

    #[test]
    fn fused_operations_equal_composed_ones() {
        let mut rng = SplitMix64::new(4);
        let (x, g, u) =
            (random(&mut rng, (130, 48)), random(&mut rng, (130, 48)), random(&mut rng, (130, 48)));
        let (w, a, b) =
            (random(&mut rng, (40, 48)), random(&mut rng, (4, 48)), random(&mut rng, (40, 4)));
        let norm = Var::from_tensor(&random(&mut rng, (1, 48)).flatten_all().unwrap()).unwrap();
        same(
            &[&x, &norm],
            || rms_norm(&x, &norm, 1e-5),
            || {
                let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
                x.broadcast_div(&scale)?.broadcast_mul(&norm)
            },
        );
        same(&[&g, &u], || swiglu(&g, &u), || g.silu()? * u.as_tensor());
        let frozen = w.as_detached_tensor();
        same(
            &[&x, &a, &b],
            || lora_linear(&x, &frozen, &a, &b, 0.5),
            || {
                let delta = (x.matmul(&a.t()?)?.matmul(&b.t()?)? * 0.5)?;
                x.matmul(&frozen.t()?)? + delta
            },
        );
        same(&[&x], || frozen_linear(&x, &frozen), || x.matmul(&frozen.t()?));
    }

    #[test]
    fn exp_is_accurate() {
        for at in -8600..8700 {
            let x = at as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "{x}");
        }
    }
}
