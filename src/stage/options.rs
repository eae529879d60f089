//! Options of the stages that no single module of a lower layer owns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::index::{Builder, IndexOptions, Quantization};
use crate::tower::DeviceSpec;
use crate::types::{Digest256, VectorType, hash_json};

/// How texts are encoded. Nothing here changes what a vector means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncodeOptions {
    /// One worker per entry: `cpu`, `cpu:4` (four threads), `cuda:0`, `cuda:1`, ... All take batches of the same texts.
    pub devices: Vec<String>,
    /// Processor threads, shared by the `cpu` workers that do not say how many; 0 for all of them.
    pub threads: usize,
    /// Tokens of one batch. A larger budget fills a GPU better and takes more memory.
    pub token_budget: u32,
    /// Tokens of one part: texts are read, length-sorted, encoded and written in portions of this many tokens, so
    /// this bounds memory and what a crash can lose. Default: 100,000 on processors (a few minutes of a small
    /// LLM), 5,000,000 where a device is a GPU.
    pub part_tokens: Option<u64>,
    /// Texts of one part at most.
    pub part_texts: u32,
    /// Element type of stored embeddings.
    pub vector_type: VectorType,
    /// Before a long job, check that a text's vector does not depend on its neighbours in a batch.
    pub self_test: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            devices: vec!["cpu".to_owned()],
            threads: 0,
            token_budget: 4096,
            part_tokens: None,
            part_texts: 65_536,
            vector_type: VectorType::F32,
            self_test: true,
        }
    }
}

impl EncodeOptions {
    /// [`EncodeOptions::part_tokens`], resolved by the devices.
    pub fn resolved_part_tokens(&self) -> u64 {
        let gpu = self.devices.iter().any(|device| device.starts_with("cuda"));
        self.part_tokens.unwrap_or(if gpu { 5_000_000 } else { 100_000 })
    }

    /// The workers, in order. `cpu` workers share the threads evenly.
    ///
    /// # Errors
    /// Config for an empty list or an entry that is neither `cpu`, `cpu:<threads>` nor `cuda:<number>`.
    pub fn devices(&self) -> Result<Vec<DeviceSpec>> {
        if self.devices.is_empty() {
            return Err(Error::config(
                "encode.devices is empty; name at least one, e.g. [\"cpu\"] or [\"cuda:0\"]",
            ));
        }
        let cpu_workers = self.devices.iter().filter(|device| *device == "cpu").count();
        let threads = if cpu_workers > 1 {
            let all = match self.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            };
            (all / cpu_workers).max(1)
        } else {
            self.threads
        };
        self.devices.iter().map(|device| parse_device(device, threads)).collect()
    }
}

fn parse_device(device: &str, threads: usize) -> Result<DeviceSpec> {
    match device.parse() {
        Ok(DeviceSpec::Cpu { threads: 0 }) => Ok(DeviceSpec::Cpu { threads }),
        Ok(own) => Ok(own),
        Err(error) => Err(Error::config(format!("encode.devices: {}", error.message()))),
    }
}

/// How indexes are built: [`IndexOptions`], the number of shards and the memory they may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BuildOptions {
    /// Element type inside the index.
    pub quantization: Quantization,
    /// Links per node (HNSW M).
    pub connectivity: usize,
    /// Candidates while building (efConstruction).
    pub expansion_add: usize,
    /// Candidates while searching (ef).
    pub expansion_search: usize,
    /// Candidates per asked result that the f16 sidecar rescores at most; 0 switches rescoring off.
    pub rescore: usize,
    /// What builds the graph; absent: usearch. Changing it rebuilds every index; vectors are kept.
    #[serde(skip_serializing_if = "Builder::is_usearch")]
    pub builder: Builder,
    /// Number of shards. Default: 1 for a tiny corpus, else at least 4 per device. Changing it
    /// rebuilds every index; vectors are kept.
    pub shards: Option<u32>,
    /// A changed shard gets a small index of what came beside its base index. It is rebuilt as one where the vectors
    /// gone from the base, or those outside it, exceed this share of the base, in percent; 0 rebuilds every
    /// changed shard. Changing it alone rebuilds nothing.
    pub rebuild_churn_percent: f64,
    /// Memory that all builds together may take, in MiB. Default: 80% of what is free.
    pub memory_limit_mib: Option<u64>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        let IndexOptions {
            quantization,
            connectivity,
            expansion_add,
            expansion_search,
            rescore,
            builder,
        } = IndexOptions::default();
        Self {
            quantization,
            connectivity,
            expansion_add,
            expansion_search,
            rescore,
            builder,
            shards: None,
            rebuild_churn_percent: 20.0,
            memory_limit_mib: None,
        }
    }
}

impl BuildOptions {
    /// The part that is an index's identity.
    pub fn index(&self) -> IndexOptions {
        IndexOptions {
            quantization: self.quantization,
            connectivity: self.connectivity,
            expansion_add: self.expansion_add,
            expansion_search: self.expansion_search,
            rescore: self.rescore,
            builder: self.builder,
        }
    }
}

/// How the query tower learns to place the corpus's own titles and sentences where the LLM places them. `max_texts`,
/// `steps` and `minutes` are limits: with more to read or less time, fewer of each are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptOptions {
    /// Titles and sentences, drawn by the hash of their text from this many notes at most, also drawn by hash: tomorrow
    /// the same are drawn. About an eighth of them is held out, to judge the tower by.
    pub max_texts: u32,
    /// Steps of distillation.
    pub steps: u32,
    /// Minutes for all of it, half of them for the LLM; by default as long as it takes. Where they run out, the same
    /// notes need not give the same tower.
    pub minutes: Option<u32>,
    /// Texts of one step.
    pub batch: u32,
    /// Weight of the squared distance to the LLM's vector.
    pub mse_weight: f64,
    /// Weight of `1 - cosine` to the LLM's vector.
    pub cosine_weight: f64,
    /// Weight of how far the tower's scores of the notes (of 4096 of them at most) are from the LLM's.
    pub score_weight: f64,
    /// Weight of how small a share of those scores the text's own note has: contrastive refinement.
    pub own_weight: f64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decides the order of texts.
    pub seed: u64,
}

impl Default for AdaptOptions {
    fn default() -> Self {
        Self {
            max_texts: 4096,
            steps: 100,
            minutes: None,
            batch: 128,
            mse_weight: 1.0,
            cosine_weight: 1.0,
            score_weight: 3.0,
            own_weight: 3.0,
            learning_rate: 1e-4,
            seed: 1,
        }
    }
}

impl AdaptOptions {
    /// Every value that makes no sense: its key and what it must be.
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let weights = [
            ("mse_weight", self.mse_weight),
            ("cosine_weight", self.cosine_weight),
            ("score_weight", self.score_weight),
            ("own_weight", self.own_weight),
        ];
        let mut problems: Vec<_> = weights
            .iter()
            .filter(|(_, weight)| !(weight.is_finite() && *weight >= 0.0))
            .map(|(key, _)| (*key, "must be 0 or more"))
            .collect();
        let mut require = |fine: bool, key, message| {
            if !fine {
                problems.push((key, message));
            }
        };
        // A note of one's own alone would not keep the tower where the LLM places texts.
        let any = self.mse_weight + self.cosine_weight + self.score_weight > 0.0;
        require(any, "mse_weight", "must be above 0, or cosine_weight or score_weight");
        require((16..=1_000_000).contains(&self.max_texts), "max_texts", "must be 16 to 1,000,000");
        require(
            self.minutes != Some(0),
            "minutes",
            "must be at least 1; leave it out for no limit",
        );
        require(self.steps >= 1, "steps", "must be at least 1");
        require((2..=4096).contains(&self.batch), "batch", "must be 2 to 4096");
        let rate = self.learning_rate;
        require(rate > 0.0 && rate <= 1.0, "learning_rate", "must be above 0 and at most 1");
        problems
    }

    /// Names what decides what is learnt, within the limits of time: with another digest, the tower is adapted again.
    pub(crate) fn digest(&self) -> Result<Digest256> {
        hash_json(&Self { minutes: None, ..self.clone() })
    }
}

/// Cuts long notes into overlapping windows; the best window of a note wins in search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunkingOptions {
    /// Text tokens of one window, at most `tower.max_tokens` less the prompt.
    pub window_tokens: u32,
    /// Text tokens that neighbouring windows share; less than `window_tokens`.
    #[serde(default)]
    pub overlap_tokens: u32,
}

/// How a person goes on with a tower that drifted. A hint: not every command that meets one has these flags.
pub(super) const OVERRIDE_DRIFT: &str =
    "to encode with it all the same: --override drift --reason TEXT";

/// What a snapshot must satisfy to be published. Zero orphans and finite, non-zero vectors are
/// always required. A refused gate ends the run with exit code 3; `--override` publishes anyway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateOptions {
    /// Gate `recall`: recall@10 of the indexes as served, against exact search; the upper end of its 95%
    /// interval must reach this, so that a small sample does not refuse by chance.
    pub recall_min: f64,
    /// Gate `count-change`: fewest notes a snapshot may have.
    pub min_notes: u64,
    /// Gate `count-change`: largest loss of notes against the parent snapshot, in percent.
    pub max_count_drop_percent: f64,
    /// Gate `count-change`: largest growth against the parent snapshot, in percent; none by default.
    pub max_count_growth_percent: Option<f64>,
    /// Gate `rejected`: largest share of the rows read that were rejected, in percent
    /// (`corpus.max_rejected` stops a run earlier, by count).
    pub max_rejected_percent: f64,
    /// Gate `quarantined`: largest share of notes whose text could not be encoded, in percent.
    pub max_quarantined_percent: f64,
    /// Gate `drift`: largest cosine distance between the stored and the re-encoded vector of a
    /// sampled unchanged note.
    pub max_drift: f64,
    /// Unchanged notes that are encoded again to measure drift; 0 switches the check off.
    pub drift_sample: u32,
    /// Gate `ndcg-drop`: largest loss of mean nDCG@10 of `evaluation.set` against the newest snapshot (0.01 is a
    /// hundredth). Refused where the whole 95% interval of the difference, paired by query, lies below that loss, so
    /// that a few queries do not refuse by chance; no gate by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ndcg_drop: Option<f64>,
    /// Gate `top1-change`: where the tower of notes or queries is another than the newest snapshot's, largest share of
    /// the queries of `[evaluation]` (0.2 is a fifth) whose first hit is another note; no gate by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_top1_change: Option<f64>,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            recall_min: 0.95,
            min_notes: 1,
            max_count_drop_percent: 10.0,
            max_count_growth_percent: None,
            max_rejected_percent: 1.0,
            max_quarantined_percent: 0.1,
            max_drift: 0.001,
            drift_sample: 16,
            max_ndcg_drop: None,
            max_top1_change: None,
        }
    }
}

impl GateOptions {
    /// Every gate name that `--override` knows: the six that judge every snapshot, then those that judge where they are
    /// asked for.
    pub const NAMES: [&str; 8] = [
        "recall",
        "orphans",
        "count-change",
        "rejected",
        "quarantined",
        "drift",
        "ndcg-drop",
        "top1-change",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_share_threads() {
        let of = |devices: &[&str], threads| {
            let devices = devices.iter().map(|&d| d.to_owned()).collect();
            EncodeOptions { devices, threads, ..EncodeOptions::default() }.devices()
        };
        assert_eq!(of(&["cpu"], 0).unwrap(), [DeviceSpec::Cpu { threads: 0 }]);
        let two = of(&["cpu", "cuda:1", "cpu"], 9).unwrap();
        assert_eq!(two[0], DeviceSpec::Cpu { threads: 4 });
        assert_eq!(two[1], DeviceSpec::Cuda(1));
        let own = of(&["cpu:1", "cpu:1", "cpu"], 3).unwrap();
        let threads = |threads| DeviceSpec::Cpu { threads };
        assert_eq!(own, [threads(1), threads(1), threads(3)]);
        let wrong = of(&["cpu", "gpu"], 0).unwrap_err().to_string();
        assert!(wrong.contains("encode.devices") && wrong.contains("`gpu`"), "{wrong}");
        assert!(of(&[], 0).is_err());
    }

    #[test]
    fn build_defaults_are_the_index_defaults() {
        assert_eq!(BuildOptions::default().index(), IndexOptions::default());
    }
}
