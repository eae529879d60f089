//! Options that both stages share, and their defaults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Texts of a step by default.
pub(super) fn batch() -> usize {
    64
}

/// The default that cosines are divided by.
pub(super) fn temperature() -> f64 {
    0.05
}

/// Seconds between checkpoints by default.
pub(super) fn checkpoint_seconds() -> u64 {
    300
}

/// Pairs held out of training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationOptions {
    /// How many; none of their documents is trained on as a positive.
    pub pairs: usize,
    /// Steps between looks.
    pub every: u64,
}

impl Default for ValidationOptions {
    fn default() -> Self {
        Self { pairs: 128, every: 50 }
    }
}

/// AdamW with warm-up and cosine decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerOptions {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Learning rate at the end, as a share of the highest.
    pub final_share: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Keeps the division finite.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm.
    pub clip_norm: f64,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        Self {
            learning_rate: 5e-4,
            warmup_steps: 20,
            final_share: 0.05,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip_norm: 1.0,
        }
    }
}

/// Refuses a number that is none, endless, or not above 0.
pub(super) fn check_positive(value: f64, name: &str) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::config(format!("{name} must be a number above 0"))),
    }
}

/// The same for a softmax's temperature: below a thousandth, cosines lead out of what f32 can tell apart.
pub(super) fn check_temperature(value: f64, name: &str) -> Result<()> {
    match (1e-3..=1e3).contains(&value) {
        true => Ok(()),
        false => Err(Error::config(format!("{name} must be in 0.001..=1000"))),
    }
}

impl OptimizerOptions {
    /// Refuses values that cannot work.
    pub(super) fn validate(&self) -> Result<()> {
        check_positive(self.learning_rate, "optimizer.learning_rate")?;
        check_positive(self.clip_norm, "optimizer.clip_norm")?;
        check_positive(self.epsilon, "optimizer.epsilon")?;
        for (value, name) in [(self.beta1, "beta1"), (self.beta2, "beta2")] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::config(format!("optimizer.{name} must be in 0..1, without 1")));
            }
        }
        if !(0.0..=1.0).contains(&self.final_share) {
            return Err(Error::config("optimizer.final_share must be in 0..=1"));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::config("optimizer.weight_decay must not be negative"));
        }
        Ok(())
    }
}
