//! AdamW with clipping, warm-up and cosine decay; its state can be saved.

use candle_core::{Result, Tensor, Var};

use super::options::OptimizerOptions;

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
                let zeros = var.as_detached_tensor().zeros_like()?;
                Ok(Slot { name, share: 1.0, first: zeros.clone(), second: zeros, var })
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
        let rest = total.saturating_sub(o.warmup_steps).max(1);
        let done = ((step - o.warmup_steps) as f64 / rest as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        o.learning_rate * (o.final_share + (1.0 - o.final_share) * cosine)
    }

    /// Takes one step with gradients in the order of the slots; gives the norm before clipping.
    pub(super) fn step(&mut self, grads: &[Option<Tensor>], total: u64) -> Result<f64> {
        let mut square = 0f64;
        for grad in grads.iter().flatten() {
            square += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let norm = square.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let clip = (self.options.clip_norm / norm.max(1e-12)).min(1.0);
        let rate = self.learning_rate(self.steps, total);
        self.steps += 1;
        let (b1, b2) = (self.options.beta1, self.options.beta2);
        let (c1, c2) = (1.0 - b1.powf(self.steps as f64), 1.0 - b2.powf(self.steps as f64));
        for (slot, grad) in self.slots.iter_mut().zip(grads) {
            let Some(grad) = grad else { continue };
            let rate = rate * slot.share;
            let grad = (grad * clip)?;
            slot.first = ((&slot.first * b1)? + (&grad * (1.0 - b1))?)?;
            slot.second = ((&slot.second * b2)? + (grad.sqr()? * (1.0 - b2))?)?;
            let scale = ((&slot.second / c2)?.sqrt()? + self.options.epsilon)?;
            let update = ((&slot.first / c1)? / scale)?;
            let kept = (slot.var.as_detached_tensor() * (1.0 - rate * self.options.weight_decay))?;
            slot.var.set(&(kept - (update * rate)?)?)?;
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

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
        assert_eq!(adam.step(&grad(4.0), 10).unwrap(), 4.0);
        // Clipped to 1; both moments are corrected to 1; 1 (1 - 0.05) - 0.1.
        let value = || var.to_vec1::<f32>().unwrap()[0];
        assert!((value() - 0.85).abs() < 1e-6, "{}", value());
        adam.step(&grad(-0.5), 10).unwrap();
        let first = (0.9 * 0.1 - 0.1 * 0.5) / (1.0 - 0.81);
        let second: f64 = (0.999 * 0.001 + 0.001 * 0.25) / (1.0 - 0.999f64.powi(2));
        let expected = 0.85 * 0.95 - 0.1 * first / (second.sqrt() + 1e-8);
        assert!((f64::from(value()) - expected).abs() < 1e-6, "{} {expected}", value());
    }

    #[test]
    fn schedule_warms_up_and_decays() {
        let adam = AdamW::new(vec![], OptimizerOptions::default()).unwrap();
        let rate = |step| adam.learning_rate(step, 120) / 5e-4;
        assert!((rate(0) - 0.05).abs() < 1e-9 && (rate(19) - 1.0).abs() < 1e-9);
        assert!((rate(70) - 0.525).abs() < 1e-9 && (rate(120) - 0.05).abs() < 1e-9);
    }
}
