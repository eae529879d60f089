//! Options of the stages that no lower module owns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::VectorType;

/// `[encode]`: how the document tower is driven. None of it changes what a vector means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncodeOptions {
    /// Devices, one worker each: `cpu`, `cpu:4` (four threads), `cuda:0`.
    pub devices: Vec<String>,
    /// Tokens in one packed batch.
    pub token_budget: u32,
    /// Tokens in one part: the unit that a crash can lose, encoded length-sorted in one window.
    pub part_tokens: u64,
    /// Texts in one part at most.
    pub part_texts: u32,
    /// Element type of the stored vectors.
    pub vector_type: VectorType,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            devices: vec!["cpu".to_owned()],
            token_budget: 4096,
            part_tokens: 100_000,
            part_texts: 16_384,
            vector_type: VectorType::F32,
        }
    }
}

/// `[chunking]`: long notes become several vectors; the best chunk counts in search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunkingOptions {
    /// Tokens of one window.
    pub window_tokens: u32,
    /// Tokens that neighbouring windows share; less than `window_tokens`.
    #[serde(default)]
    pub overlap_tokens: u32,
}

/// `[gates]`: what must hold before a snapshot is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateOptions {
    /// Least recall@10 against exact search (the interval's upper end must reach it).
    pub min_recall: f64,
    /// Largest drop of the note count against the parent, in percent.
    pub max_count_drop_percent: f64,
    /// Largest growth of the note count against the parent, in percent; no limit by default.
    pub max_count_growth_percent: Option<f64>,
    /// Largest share of notes that could not be encoded, in percent.
    pub max_quarantined_percent: f64,
    /// Largest share of rejected rows, in percent (`corpus.max_rejected` stops a run earlier).
    pub max_rejected_percent: f64,
    /// Least cosine between stored vectors of unchanged notes and fresh ones.
    pub min_drift_cosine: f64,
    /// Unchanged notes that are re-encoded to measure drift; 0 switches the check off.
    pub drift_sample: u32,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            min_recall: 0.9,
            max_count_drop_percent: 20.0,
            max_count_growth_percent: None,
            max_quarantined_percent: 1.0,
            max_rejected_percent: 5.0,
            min_drift_cosine: 0.999,
            drift_sample: 16,
        }
    }
}

/// Sharding and memory of `[index]`, beside [`crate::index::IndexOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BuildOptions {
    /// Number of shards; by default the parent snapshot's, or 1 below 10,000 notes, else 4 per device.
    pub shards: Option<u32>,
    /// Memory that concurrent index builds may take, in MiB.
    pub memory_limit_mib: u64,
    /// Shards built at the same time; 0 for one per processor.
    pub workers: u32,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { shards: None, memory_limit_mib: 8192, workers: 0 }
    }
}
