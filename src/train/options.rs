//! Options that both stages share, and their defaults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Faults;
use crate::dataset::PairSource;
use crate::error::Error;

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

/// Pairs held out of training, to watch it and to choose what of it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationOptions {
    /// How many, of all sources alike; neither their queries nor their documents are trained on as pairs.
    pub pairs: usize,
    /// Steps between looks.
    pub every: u64,
    /// Documents that the queries of a source are ranked against: their own, then others of the source. `train` only.
    pub documents: usize,
    /// More sets to look at, none of which is trained on; each counts as a source. `train` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<PairSource>,
    /// Stop after this many looks in a row that were not the best so far. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Export the mean of the parameters at so many of the best looks, where it is better than the best of them.
    pub average: usize,
}

impl Default for ValidationOptions {
    fn default() -> Self {
        let (documents, sets, patience, average) = (256, Vec::new(), None, 1);
        Self { pairs: 128, every: 50, documents, sets, patience, average }
    }
}

impl ValidationOptions {
    /// Values that cannot work, by key.
    pub(super) fn faults(&self) -> Vec<(String, Error)> {
        let mut faults = Faults::default();
        for (fine, key) in [
            (self.average > 0, "average"),
            (self.documents > 0, "documents"),
            (self.patience != Some(0), "patience"),
        ] {
            faults.require(fine, key, "must be above 0");
        }
        faults.0
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Down a half cosine to the last step: it follows the number of steps, so another number is another run.
    #[default]
    Cosine,
    /// As it is, and over the last `decay_steps` steps down a line. More steps, or other ones of decay, are the same
    /// run, which goes on where it stopped.
    Constant,
}

/// AdamW with warm-up and a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerOptions {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// What comes after the warm-up.
    pub schedule: Schedule,
    /// Last steps of `schedule = "constant"`, over which the learning rate falls.
    pub decay_steps: u64,
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
            schedule: Schedule::Cosine,
            decay_steps: 0,
            final_share: 0.05,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip_norm: 1.0,
        }
    }
}

impl OptimizerOptions {
    /// Takes out what may differ between the slices of one run: the number of steps among it.
    pub(super) fn of_a_run(&mut self, steps: &mut Option<u64>) {
        if self.schedule == Schedule::Constant {
            (self.decay_steps, self.final_share, *steps) = (0, 0.0, None);
        }
    }

    /// Values that cannot work, by key.
    pub(super) fn faults(&self) -> Vec<(String, Error)> {
        let mut faults = Faults::default();
        faults.positive("learning_rate", self.learning_rate);
        faults.positive("clip_norm", self.clip_norm);
        faults.positive("epsilon", self.epsilon);
        for (key, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            faults.require((0.0..1.0).contains(&value), key, "must be in 0..1, without 1");
        }
        let share = (0.0..=1.0).contains(&self.final_share);
        faults.require(share, "final_share", "must be in 0..=1");
        let falls = self.decay_steps == 0 || self.schedule != Schedule::Cosine;
        faults.require(falls, "decay_steps", "needs schedule = \"constant\"");
        let decay = self.weight_decay.is_finite() && self.weight_decay >= 0.0;
        faults.require(decay, "weight_decay", "must be a number of 0 or more");
        faults.0
    }
}
