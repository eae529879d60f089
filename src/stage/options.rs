//! Options of the stages that no single module of a lower layer owns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::index::{Builder, IndexOptions, Quantization};
use crate::tower::DeviceSpec;
use crate::types::VectorType;

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
    /// Tokens of one part: texts are read, length-sorted, encoded and written in portions of so many tokens, so
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
    /// Who builds the graph; absent: usearch. Changing it rebuilds every index; vectors are kept.
    #[serde(skip_serializing_if = "Builder::is_usearch")]
    pub builder: Builder,
    /// Number of shards. Default: 1 for a tiny corpus, else at least 4 per device. Changing it
    /// rebuilds every index; vectors are kept.
    pub shards: Option<u32>,
    /// A changed shard gets a small index of what came beside its base index. It is rebuilt as one where the vectors
    /// gone from the base, or those outside it, exceed this share of the base, in percent; 0 rebuilds every
    /// changed shard. Changing it rebuilds nothing by itself.
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
        }
    }
}

impl GateOptions {
    /// Every gate name that `--override` knows.
    pub const NAMES: [&str; 6] =
        ["recall", "orphans", "count-change", "rejected", "quarantined", "drift"];
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
