//! Options of stage 1.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::objective::LossOptions;
use super::teacher::TeacherOptions;
use crate::dataset::{PairSource, TextSource};
use crate::error::{Error, Result};
use crate::tower::TowerOptions;
use crate::train::faults::{Faults, refuse};
use crate::train::model::{LoraOptions, StudentOptions};
use crate::train::options::{self, OptimizerOptions, ValidationOptions};
use crate::types::Digest256;

/// Everything that decides a training run. With one machine type and thread count, equal options give equal losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainOptions {
    /// The tower to start from, with the document side's prompt; `max_tokens` is the training length of documents.
    pub tower: TowerOptions,
    /// The query side's prompt and length.
    pub query: QuerySide,
    /// Training pairs.
    pub pairs: Vec<PairSource>,
    /// Texts without pairs, of which a teacher says how alike they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<TextSource>,
    /// An embedder that scores the texts of a batch, for the terms of `loss` that want one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherOptions>,
    /// What is made small.
    #[serde(default)]
    pub loss: LossOptions,
    /// Retrieval sets (folders in BEIR layout) that the tower will be judged on: a training text that is one of their
    /// queries or documents, but for case, spaces and punctuation, is refused. A pair of `validation.sets` with one of their
    /// queries is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<PathBuf>,
    /// Pairs held out to watch.
    #[serde(default)]
    pub validation: ValidationOptions,
    /// What is trained.
    pub method: Method,
    /// Optimizer and schedule.
    #[serde(default)]
    pub optimizer: OptimizerOptions,
    /// Pairs contrasted with each other in one step.
    #[serde(default = "options::batch")]
    pub batch_pairs: usize,
    /// Hard negatives taken per pair, from those that the pairs carry.
    #[serde(default)]
    pub hard_negatives: usize,
    /// Cosines are divided by it before they are contrasted.
    #[serde(default = "options::temperature")]
    pub temperature: f64,
    /// How pairs are drawn into batches.
    #[serde(default)]
    pub order: Order,
    /// Steps; by default one epoch.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Tokens whose activations are held at once. A batch above it is embedded twice (gradient caching), so that the
    /// contrastive batch does not depend on memory. SmolLM2-135M needs about 1.2 MB a token.
    #[serde(default = "default_activation_tokens")]
    pub activation_tokens: usize,
    /// Decides initial adapters, order and draws.
    #[serde(default)]
    pub seed: u64,
    /// Seconds between checkpoints.
    #[serde(default = "options::checkpoint_seconds")]
    pub checkpoint_seconds: u64,
}

fn default_activation_tokens() -> usize {
    4096
}

/// Prompt and length of the query side.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuerySide {
    /// Text before every query.
    #[serde(default)]
    pub prompt_prefix: String,
    /// Text after every query.
    #[serde(default)]
    pub prompt_suffix: String,
    /// Longest query in tokens, prompt included.
    #[serde(default = "default_query_tokens")]
    pub max_tokens: u32,
    /// Keep only the first N layers of the LLM on the query side: a small query tower, with parameters of its
    /// own, that is trained jointly with the document tower. Default: the document tower's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<u32>,
    /// What is trained on the query side; naming it gives the query side parameters of its own. Default: `method`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Highest learning rate of the query side's own parameters. Default: the optimizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// LoRA adapter that the query side starts from; naming it gives the query side parameters of its own. Default:
    /// the tower's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// A small encoder (`kind = "bert"`) as query tower, trained jointly with the document tower, end to end. Its
    /// prompt is none and its `max_tokens` its own; its projection starts where it maps queries closest to where the
    /// document tower places them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<StudentOptions>,
}

fn default_query_tokens() -> u32 {
    64
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Method {
    /// Low-rank adapters beside frozen weights.
    Lora(LoraOptions),
    /// The weights themselves.
    Full(FullOptions),
}

/// Training of the weights themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FullOptions {
    /// Train the embedding table too; it is a large part of a small LLM, and most of its rows are rarely met.
    #[serde(default = "yes")]
    pub embeddings: bool,
}

impl Default for FullOptions {
    fn default() -> Self {
        Self { embeddings: true }
    }
}

fn yes() -> bool {
    true
}

/// How pairs are drawn into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// All pairs shuffled together.
    #[default]
    Mixed,
    /// Every batch from one source: its in-batch negatives are harder.
    BySource,
}

impl TrainOptions {
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
        faults.temperature("temperature", self.temperature);
        faults.within("optimizer", self.optimizer.faults());
        faults.within("validation", self.validation.faults());
        faults.within("loss", self.loss.faults(self.teacher.is_some()));
        self.check_sources(&mut faults);
        let pairs = self.batch_pairs >= 2;
        faults.require(pairs, "batch_pairs", "must be at least 2: a pair needs a negative");
        faults.require(self.activation_tokens > 0, "activation_tokens", "must be above 0");
        faults.require(self.steps != Some(0), "steps", "must be above 0");
        if let Method::Lora(lora) = &self.method {
            faults.within("method", lora.faults());
        }
        if let Some(teacher) = &self.teacher {
            faults.within("teacher", teacher.faults());
        }
        self.check_query(&mut faults);
        faults.0
    }

    fn check_query(&self, faults: &mut Faults) {
        let QuerySide { prompt_prefix, prompt_suffix, layers, method, adapter, .. } = &self.query;
        if let Some(student) = &self.query.student {
            for (key, named) in [
                ("prompt_prefix", !prompt_prefix.is_empty()),
                ("prompt_suffix", !prompt_suffix.is_empty()),
                ("layers", layers.is_some()),
                ("method", method.is_some()),
                ("adapter", adapter.is_some()),
            ] {
                let said = "does not go with query.student; take it away";
                faults.require(!named, format!("query.{key}"), said);
            }
            let encoder = matches!(student, StudentOptions::Bert { .. });
            let said = "must be \"bert\"; query.layers cuts the LLM";
            faults.require(encoder, "query.student.kind", said);
            faults.within("query.student", student.faults());
        }
        if let Some(Method::Lora(lora)) = method {
            faults.within("query.method", lora.faults());
        }
        if let Some(rate) = self.query.learning_rate {
            faults.positive("query.learning_rate", rate);
            faults.require(
                self.separate(),
                "query.learning_rate",
                "needs a query side with parameters of its own; set query.layers or query.method",
            );
        }
    }

    fn check_sources(&self, faults: &mut Faults) {
        for (at, source) in self.pairs.iter().enumerate() {
            if let Some(temperature) = source.temperature {
                faults.temperature(format!("pairs.{at}.temperature"), temperature);
            }
            let drawn = source.share.is_none() || self.order == Order::BySource;
            faults.require(drawn, format!("pairs.{at}.share"), "needs order = \"by_source\"");
        }
        let taught = self.texts.is_empty() || self.loss.gram_weight != 0.0;
        faults.require(taught, "texts", "need loss.gram_weight and a teacher");
        let pairs = self.pairs.iter().map(|source| source.share).enumerate();
        let texts = self.texts.iter().map(|source| source.share).enumerate();
        let shares = pairs.map(|(at, share)| ("pairs", at, share));
        let shares = shares.chain(texts.map(|(at, share)| ("texts", at, share)));
        let (mut unsaid, mut sum, mut last) = (self.order == Order::Mixed, 0.0, String::new());
        for (section, at, share) in shares {
            let key = format!("{section}.{at}.share");
            match share {
                None => unsaid = true,
                Some(share) if share > 0.0 && share <= 1.0 => (sum, last) = (sum + share, key),
                Some(_) => faults.require(false, key, "must be above 0 and at most 1"),
            }
        }
        faults.require(
            sum <= 1.0 + 1e-9 && !(unsaid && sum > 1.0 - 1e-9),
            last,
            "leaves nothing for the other sources, or is above 1 together with their shares",
        );
    }

    /// Whether the query side has parameters of its own.
    pub fn separate(&self) -> bool {
        let QuerySide { layers, method, adapter, student, .. } = &self.query;
        let asked = matches!(&self.method, Method::Lora(lora) if lora.separate);
        asked || layers.is_some() || method.is_some() || adapter.is_some() || student.is_some()
    }

    /// What is trained on the query side.
    pub(super) fn query_method(&self) -> &Method {
        self.query.method.as_ref().unwrap_or(&self.method)
    }

    /// Names the run: options that change the losses beyond rounding.
    pub(super) fn digest(&self) -> Result<Digest256> {
        let mut same = self.clone();
        same.optimizer.of_a_run(&mut same.steps);
        same.checkpoint_seconds = 0;
        same.activation_tokens = 0;
        crate::types::hash_json(&same)
    }
}
