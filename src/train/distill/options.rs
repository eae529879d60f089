//! Options of stage 2.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dataset::PairSource;
use crate::error::{Error, Result};
use crate::tower::TowerOptions;
use crate::train::faults::{Faults, refuse};
use crate::train::model::StudentOptions;
use crate::train::options::{self, OptimizerOptions, ValidationOptions};

/// Everything that decides a distillation. With one machine type and thread count, equal options give equal losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistillOptions {
    /// The frozen LLM query tower, with its adapter and the query's prompt.
    pub teacher: TowerOptions,
    /// Where the queries come from; their documents are not looked at.
    pub pairs: Vec<PairSource>,
    /// What learns.
    pub student: StudentOptions,
    /// Weight of the squared distance to the teacher's vector.
    #[serde(default = "one")]
    pub mse_weight: f64,
    /// Weight of `1 - cosine` to the teacher's vector.
    #[serde(default = "one")]
    pub cosine_weight: f64,
    /// Weight of how far the student's scores are from the teacher's: both score the teacher's vectors of the whole batch,
    /// and the student's distribution over those of the other texts is to be the teacher's (Kullback-Leibler divergence; Fang
    /// et al. 2021, SEED). Where the documents are known, both score those. Not in the ScalingNote paper.
    #[serde(default)]
    pub score_weight: f64,
    /// Cosines are divided by it before they become distributions.
    #[serde(default = "options::temperature")]
    pub score_temperature: f64,
    /// Optimizer and schedule.
    #[serde(default)]
    pub optimizer: OptimizerOptions,
    /// Queries of one step.
    #[serde(default = "options::batch")]
    pub batch: usize,
    /// Steps; by default one epoch.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Queries held out to watch.
    #[serde(default)]
    pub validation: ValidationOptions,
    /// Decides order, held-out queries and the initial projection.
    #[serde(default)]
    pub seed: u64,
    /// Seconds between checkpoints. A run that is never resumed has none, and writes none.
    #[serde(default = "checkpoint_seconds")]
    #[schemars(with = "u64")]
    pub checkpoint_seconds: Option<u64>,
    /// The steps are to end within this time, whatever `steps` says: fewer are taken then, and the learning rate falls
    /// sooner. Without one, equal options give an equal student.
    #[serde(skip)]
    pub limit: Option<Duration>,
}

fn one() -> f64 {
    1.0
}

fn checkpoint_seconds() -> Option<u64> {
    Some(options::checkpoint_seconds())
}

impl DistillOptions {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// Config, naming every key.
    pub fn validate(&self) -> Result<()> {
        refuse(&self.faults())
    }

    /// Values that cannot work: what is wrong, by key.
    pub fn faults(&self) -> Vec<(String, Error)> {
        let mut faults = Faults::default();
        faults.weights([
            ("mse_weight", self.mse_weight),
            ("cosine_weight", self.cosine_weight),
            ("score_weight", self.score_weight),
        ]);
        faults.temperature("score_temperature", self.score_temperature);
        faults.within("optimizer", self.optimizer.faults());
        faults.within("validation", self.validation.faults());
        faults.require(
            self.validation.sets.is_empty(),
            "validation.sets",
            "are for training; name the queries in pairs",
        );
        faults.require(self.batch > 0, "batch", "must be above 0");
        // To refit a projection is something to do without a step.
        let works = self.steps != Some(0) || self.student.refit_queries() > 0;
        faults.require(works, "steps", "must be above 0");
        faults.within("student", self.student.faults());
        faults.0
    }
}
