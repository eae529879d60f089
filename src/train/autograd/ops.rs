//! Differentiable building blocks with a backward pass of their own: on the CPU in f32 they are fused, elsewhere
//! they are composed of candle operations. Custom operations of candle-nn have no backward pass, hence these.

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Storage, Tensor, bail};

use crate::kernel::{rms_norm, swiglu};

/// Whether the fused kernels apply.
pub(crate) fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The values of a contiguous f32 tensor on the CPU.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused operation needs contiguous input"),
    }
}

/// Calls `f` with the values of a tensor (made contiguous).
pub(crate) fn with_values<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(values(storage, layout)?),
        _ => bail!("a fused operation needs a tensor on the CPU"),
    }
}

/// [`with_values`] of several tensors.
pub(crate) fn with_all<T, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let tensors = tensors.into_iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else {
            bail!("a fused operation needs tensors on the CPU");
        };
        *slice = values(storage, layout)?;
    }
    f(slices)
}

/// Values as the gradient of a tensor.
pub(crate) fn gradient(values: Vec<f32>, of: &Tensor) -> Result<Option<Tensor>> {
    Tensor::from_vec(values, of.shape(), of.device()).map(Some)
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
        let mut y = vec![0f32; x.len()];
        rms_norm::forward(x, weight, self.epsilon, &mut y);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dx = vec![0f32; x.elem_count()];
        let mut dw = vec![0f32; if weight.is_variable() { weight.elem_count() } else { 0 }];
        with_all([x, weight, grad], |[x, weight, grad]| {
            rms_norm::backward((x, weight, grad), self.epsilon, &mut dx, &mut dw);
            Ok(())
        })?;
        let dw = if weight.is_variable() { gradient(dw, weight)? } else { None };
        Ok((gradient(dx, x)?, dw))
    }
}

/// Root-mean-square normalisation over the last dimension of `x`, times `weight`.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
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
        swiglu::forward(gate, up, &mut y);
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
        with_all([gate, up, grad], |[gate, up, grad]| {
            swiglu::backward((gate, up, grad), &mut dgate, &mut dup);
            Ok(())
        })?;
        Ok((gradient(dgate, gate)?, gradient(dup, up)?))
    }
}

/// `silu(gate) * up`.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
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
    use crate::train::autograd::linear::{Weight, frozen_linear, lora_linear, trained_linear};

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
        let frozen = Weight::Tensor(w.as_detached_tensor());
        let exact = w.as_detached_tensor();
        same(
            &[&x, &a, &b],
            || lora_linear(&x, &frozen, &a, &b, 0.5),
            || {
                let delta = (x.matmul(&a.t()?)?.matmul(&b.t()?)? * 0.5)?;
                x.matmul(&exact.t()?)? + delta
            },
        );
        same(&[&x], || frozen_linear(&x, &frozen), || x.matmul(&exact.t()?));
    }

    #[test]
    fn rounded_products_are_near_the_exact_ones() {
        let mut rng = SplitMix64::new(6);
        let (x, w) = (random(&mut rng, (130, 48)), random(&mut rng, (40, 48)));
        let run = |round: bool| {
            let y = trained_linear(&x, &w, round).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            (y, [&x, &w].map(|var| grads.get(var).unwrap().clone()))
        };
        let ((y, grads), (exact_y, exact_grads)) = (run(true), run(false));
        close(&y, &exact_y, 2e-2);
        for (grad, exact) in grads.iter().zip(&exact_grads) {
            close(grad, exact, 2e-2);
        }
        assert!(
            y.sub(&exact_y).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
                > 0.0
        );
    }

    #[test]
    fn packed_weights_are_near_the_exact_ones() {
        let mut rng = SplitMix64::new(5);
        let x = random(&mut rng, (300, 48));
        let (w, a, b) =
            (random(&mut rng, (40, 48)), random(&mut rng, (4, 48)), random(&mut rng, (40, 4)));
        let exact = Weight::Tensor(w.as_detached_tensor());
        let packed = Weight::pack(&w).unwrap();
        let run = |weight: &Weight| {
            let y = lora_linear(&x, weight, &a, &b, 0.5).unwrap();
            let y = (y + frozen_linear(&x, weight).unwrap()).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            (y, [&x, &a, &b].map(|var| grads.get(var).unwrap().clone()))
        };
        let ((y, grads), (exact_y, exact_grads)) = (run(&packed), run(&exact));
        close(&y, &exact_y, 2e-2);
        for (grad, exact) in grads.iter().zip(&exact_grads) {
            close(grad, exact, 2e-2);
        }
    }
}
