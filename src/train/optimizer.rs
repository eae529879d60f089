//! AdamW with clipping, warm-up and a schedule; its state can be saved.

use candle_core::{
    CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail,
};

use super::autograd::ops::{fused, values, with_values};
use super::options::{OptimizerOptions, Schedule};
use super::tensors::fetch;
use crate::kernel::adam;

/// Parameters with their two moments.
pub(super) struct AdamW {
    options: OptimizerOptions,
    pub(super) slots: Vec<Slot>,
    /// Steps taken.
    pub(super) steps: u64,
}

/// One parameter.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) var: Var,
    /// Its learning rate as a share of the schedule's.
    pub(super) share: f64,
    pub(super) first: Tensor,
    pub(super) second: Tensor,
}

impl AdamW {
    pub(super) fn new(vars: Vec<(String, Var)>, options: OptimizerOptions) -> Result<Self> {
        let slots = vars
            .into_iter()
            .map(|(name, var)| {
                // Two tensors, not one twice: they are changed in place.
                let zeros = || var.as_detached_tensor().zeros_like();
                Ok(Slot { name, share: 1.0, first: zeros()?, second: zeros()?, var })
            })
            .collect::<Result<_>>()?;
        Ok(Self { options, slots, steps: 0 })
    }

    /// Learning rate of step `step` (from 0) of `total`.
    pub(super) fn learning_rate(&self, step: u64, total: u64) -> f64 {
        let o = &self.options;
        if step < o.warmup_steps {
            return o.learning_rate * (step + 1) as f64 / o.warmup_steps as f64;
        }
        let height = match o.schedule {
            Schedule::Cosine => {
                let rest = total.saturating_sub(o.warmup_steps).max(1);
                let done = ((step - o.warmup_steps) as f64 / rest as f64).min(1.0);
                0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            Schedule::Constant => {
                let done = (step + 1 + o.decay_steps).saturating_sub(total);
                1.0 - (done as f64 / o.decay_steps.max(1) as f64).min(1.0)
            }
        };
        o.learning_rate * (o.final_share + (1.0 - o.final_share) * height)
    }

    /// Takes one step with gradients in the order of the slots; gives the norm before clipping, a tensor without dimensions
    /// that is where they are. Where it turns out not to be finite, the parameters may not be either: the run has to end.
    pub(super) fn step(&mut self, grads: &[Option<Tensor>], total: u64) -> Result<Tensor> {
        let Norm { tensor: norm, known } = Norm::of(grads)?;
        if known.is_some_and(|norm| !norm.is_finite()) {
            return Ok(norm);
        }
        let most = self.options.clip_norm;
        let clip = known.map(|norm| (most / norm.max(1e-12)).min(1.0));
        let clip_there = (most / norm.maximum(1e-12f64)?)?.minimum(1f64)?.to_dtype(DType::F32)?;
        let rate = self.learning_rate(self.steps, total);
        self.steps += 1;
        let (b1, b2) = (self.options.beta1, self.options.beta2);
        let (c1, c2) = (1.0 - b1.powf(self.steps as f64), 1.0 - b2.powf(self.steps as f64));
        for (slot, grad) in self.slots.iter_mut().zip(grads) {
            let Some(grad) = grad else { continue };
            let rate = rate * slot.share;
            let kept = 1.0 - rate * self.options.weight_decay;
            let epsilon = self.options.epsilon;
            if let Some(clip) = clip
                && fused(grad)
                && fused(&slot.first)
            {
                let grad = grad.contiguous()?;
                let add = ((1.0 - b1) * clip) as f32;
                slot.first.inplace_op2(&grad, &Moment(adam::moment, b1 as f32, add))?;
                let add = ((1.0 - b2) * clip * clip) as f32;
                slot.second.inplace_op2(&grad, &Moment(adam::squared_moment, b2 as f32, add))?;
                let update = Update(adam::Update {
                    kept: kept as f32,
                    rate: (rate / c1) as f32,
                    second: (1.0 / c2) as f32,
                    epsilon: epsilon as f32,
                });
                slot.var.as_tensor().inplace_op3(&slot.first, &slot.second, &update)?;
                continue;
            }
            let grad = grad.broadcast_mul(&clip_there.to_dtype(grad.dtype())?)?;
            slot.first = ((&slot.first * b1)? + (&grad * (1.0 - b1))?)?;
            slot.second = ((&slot.second * b2)? + (grad.sqr()? * (1.0 - b2))?)?;
            let scale = ((&slot.second / c2)?.sqrt()? + epsilon)?;
            let update = ((&slot.first / c1)? / scale)?;
            slot.var.set(&((slot.var.as_detached_tensor() * kept)? - (update * rate)?)?)?;
        }
        Ok(norm)
    }
}

/// The norm of all gradients together.
struct Norm {
    /// Where the gradients are; f64.
    tensor: Tensor,
    /// The same as the processor's kernels take it. `None` where all gradients are a device's: it is not waited for.
    known: Option<f64>,
}

impl Norm {
    /// Gradients of a device are squared and summed there.
    fn of(grads: &[Option<Tensor>]) -> Result<Self> {
        let (mut here, mut is_here) = (0f64, false);
        let mut there = Vec::new();
        for grad in grads.iter().flatten() {
            if fused(grad) {
                is_here = true;
                here += with_values(grad, |grad| Ok(adam::squared_norm(grad)))?;
            } else {
                there.push(grad.to_dtype(DType::F32)?.sqr()?.sum_all()?);
            }
        }
        if there.is_empty() {
            let norm = here.sqrt();
            return Ok(Self { tensor: Tensor::new(norm, &Device::Cpu)?, known: Some(norm) });
        }
        let there = Tensor::stack(&there, 0)?.to_dtype(DType::F64)?.sum_all()?;
        let tensor = (there + here)?.sqrt()?;
        // An encoder on the processor beside an LLM on a GPU: its kernels need the norm of both.
        let known = if is_here { Some(fetch([&tensor])?[0]) } else { None };
        Ok(Self { tensor, known })
    }
}

// ---- in place on the CPU: composed of tensor operations the step takes longer than the backward pass -------------------

/// The numbers of a contiguous tensor that is changed in place.
fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&mut data[start..end]),
        _ => bail!("a step in place needs contiguous f32"),
    }
}

/// `m = keep m + add g`, or of `g^2`; which one, `keep` and `add`.
struct Moment(fn(&mut [f32], &[f32], f32, f32), f32, f32);

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adam-moment"
    }

    fn cpu_fwd(
        &self,
        m: &mut CpuStorage,
        m_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let Self(apply, keep, add) = *self;
        apply(values_mut(m, m_layout)?, values(grad, grad_layout)?, keep, add);
        Ok(())
    }
}

/// The step itself.
struct Update(adam::Update);

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adam-update"
    }

    fn cpu_fwd(
        &self,
        value: &mut CpuStorage,
        layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<()> {
        let value = values_mut(value, layout)?;
        let (m, v) = (values(first, first_layout)?, values(second, second_layout)?);
        self.0.apply(value, m, v);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tensors::read_backs;

    #[test]
    fn two_steps_by_hand() {
        let options = OptimizerOptions {
            learning_rate: 0.1,
            warmup_steps: 0,
            final_share: 1.0,
            beta2: 0.999,
            weight_decay: 0.5,
            clip_norm: 1.0,
            ..OptimizerOptions::default()
        };
        let var = Var::from_vec(vec![1f32], 1, &Device::Cpu).unwrap();
        let mut adam = AdamW::new(vec![("w".into(), var.clone())], options).unwrap();
        let grad = |v: f32| [Some(Tensor::new(&[v], &Device::Cpu).unwrap())];
        assert_eq!(number(&adam.step(&grad(4.0), 10).unwrap()), 4.0);
        // Clipped to 1; both moments are corrected to 1; 1 (1 - 0.05) - 0.1.
        let value = || var.to_vec1::<f32>().unwrap()[0];
        assert!((value() - 0.85).abs() < 1e-6, "{}", value());
        adam.step(&grad(-0.5), 10).unwrap();
        let first = (0.9 * 0.1 - 0.1 * 0.5) / (1.0 - 0.81);
        let second: f64 = (0.999 * 0.001 + 0.001 * 0.25) / (1.0 - 0.999f64.powi(2));
        let expected = 0.85 * 0.95 - 0.1 * first / (second.sqrt() + 1e-8);
        assert!((f64::from(value()) - expected).abs() < 1e-6, "{} {expected}", value());
    }

    fn number(scalar: &Tensor) -> f64 {
        scalar.to_scalar().unwrap()
    }

    /// f64 has no fused kernel, and stands for a device.
    fn there(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
    }

    #[test]
    fn the_norm_is_of_all_gradients_wherever_they_are_summed() {
        let here = Tensor::new(&[2f32, 4.], &Device::Cpu).unwrap();
        let of = |grads: &[Option<Tensor>]| {
            let before = read_backs();
            let Norm { tensor, known } = Norm::of(grads).unwrap();
            (number(&tensor), known, read_backs() - before)
        };
        let near = |norm: f64, square: f64| (norm - square.sqrt()).abs() < 1e-12;
        let (norm, known, reads) = of(&[Some(here.clone()), None]);
        assert!(near(norm, 20.) && known == Some(norm) && reads == 0, "{norm} {known:?} {reads}");
        let far = Some(there(&[1., 2.]));
        let (norm, known, reads) = of(&[far.clone(), far.clone()]);
        assert!(near(norm, 10.) && known.is_none() && reads == 0, "{norm} {known:?} {reads}");
        // The processor's kernels have to know what the device found.
        let (norm, known, reads) = of(&[Some(here), None, far.clone(), far]);
        assert!(near(norm, 30.) && known == Some(norm) && reads == 1, "{norm} {known:?} {reads}");
    }

    /// Tensor operations take the steps that the processor's kernels take, clipped or not, and nothing is read back.
    #[test]
    fn a_device_takes_the_same_steps_without_being_waited_for() {
        let options =
            OptimizerOptions { learning_rate: 0.1, warmup_steps: 0, ..OptimizerOptions::default() };
        let start = there(&[1., -2., 0.5]);
        let adam = |dtype: DType| {
            let var = Var::from_tensor(&start.to_dtype(dtype).unwrap()).unwrap();
            (AdamW::new(vec![("w".into(), var.clone())], options.clone()).unwrap(), var)
        };
        let ((mut kernels, here), (mut composed, far)) = (adam(DType::F32), adam(DType::F64));
        // Norms above and below the one that is allowed.
        for values in [[3f32, 4., 0.], [0.1, -0.2, 0.3], [-8., 1., 2.]] {
            let grad = there(&values);
            let grads = [DType::F32, DType::F64].map(|of| [Some(grad.to_dtype(of).unwrap())]);
            let norm = kernels.step(&grads[0], 10).unwrap();
            let before = read_backs();
            let same = composed.step(&grads[1], 10).unwrap();
            assert_eq!(read_backs(), before);
            assert!((number(&norm) - number(&same)).abs() < 1e-5, "{norm} {same}");
            let apart = (here.to_dtype(DType::F64).unwrap() - far.as_tensor()).unwrap();
            let apart = number(&apart.abs().unwrap().sum_all().unwrap());
            assert!(apart < 1e-5, "{apart}");
        }
        assert!(number(&composed.step(&[Some(there(&[f32::NAN, 0., 0.]))], 10).unwrap()).is_nan());
    }

    #[test]
    fn schedule_warms_up_and_decays() {
        let adam = AdamW::new(vec![], OptimizerOptions::default()).unwrap();
        let rate = |step| adam.learning_rate(step, 120) / 5e-4;
        assert!((rate(0) - 0.05).abs() < 1e-9 && (rate(19) - 1.0).abs() < 1e-9);
        assert!((rate(70) - 0.525).abs() < 1e-9 && (rate(120) - 0.05).abs() < 1e-9);
        let (schedule, decay_steps) = (Schedule::Constant, 10);
        let options = OptimizerOptions { schedule, decay_steps, ..OptimizerOptions::default() };
        let adam = AdamW::new(vec![], options).unwrap();
        for (total, step, share) in
            [(120, 19, 1.0), (120, 109, 1.0), (120, 110, 0.905), (120, 119, 0.05), (500, 110, 1.0)]
        {
            let rate = adam.learning_rate(step, total) / 5e-4;
            assert!((rate - share).abs() < 1e-9, "step {step} of {total}: {rate}");
        }
    }
}
