//! usearch indexes: calibrated quantisation, single-thread builds, reachability audit, rescoring sidecar.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::types::{Cancel, Embeddings};

/// Element type inside the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers with our calibrated scale.
    #[default]
    I8,
    /// One sign bit an element, Hamming distance.
    B1,
}

/// How an index is built. Every field is identity: it is hashed into the index's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexOptions {
    /// Element type inside the index.
    pub quantization: Quantization,
    /// Links per node (HNSW M).
    pub connectivity: usize,
    /// Candidates while building (efConstruction).
    pub expansion_add: usize,
    /// Candidates while searching (ef).
    pub expansion_search: usize,
    /// Candidates per asked result that the f16 sidecar rescores; 0 switches rescoring off.
    pub rescore: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            quantization: Quantization::I8,
            connectivity: 16,
            expansion_add: 128,
            expansion_search: 64,
            rescore: 4,
        }
    }
}

impl IndexOptions {
    /// 16 hex digits that name these options in paths.
    pub fn id(&self) -> Result<String> {
        Ok(crate::types::hash_json(self)?.short())
    }
}

/// The frozen i8 scale of one (space, options): `q = clamp(round(x * scale), -127, 127)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Multiplier from f32 to i8; 1.0 for other quantisations.
    pub scale: f32,
    /// Vectors it was fitted on.
    pub sample: u64,
    /// Share of elements clipped on that sample.
    pub clipped: f64,
}

/// What a build made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildReport {
    /// Vectors in the index.
    pub vectors: u64,
    /// Unreachable vectors found by the audit after repair; 0 in anything published.
    pub orphans: u64,
    /// Unreachable vectors that the repair re-inserted.
    pub repaired: u64,
    /// recall@10 of the index as served (with rescoring) against exact search.
    pub recall: Recall,
    /// Share of i8 elements clipped; refit the scale when this grows.
    pub clipped: f64,
}

/// recall@k on a sample with a 95% interval (over queries).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recall {
    /// k.
    pub k: u32,
    /// Sampled queries.
    pub queries: u32,
    /// Mean recall.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Fits the scale on a sample of vectors.
pub fn calibrate(sample: &Embeddings, options: &IndexOptions) -> Result<Calibration> {
    let _ = (sample, options);
    todo!("index helper")
}

/// Estimated resident bytes while building an index of `vectors` x `dimensions`.
pub fn estimate_memory(vectors: u64, dimensions: u32, options: &IndexOptions) -> u64 {
    let _ = (vectors, dimensions, options);
    todo!("index helper")
}

/// Builds, audits, repairs and measures one index, and writes `<index>` (usearch) and `<sidecar>` (f16).
/// `keys` ascending, no repeats, `vectors` row by row beside them. One thread; same input, same bytes.
///
/// # Errors
/// Input for a non-finite or (cosine) zero vector, naming its key; Cancelled; Corrupt if the saved file
/// does not read back.
#[allow(clippy::too_many_arguments)]
pub fn build(
    keys: &[u64],
    vectors: &Embeddings,
    options: &IndexOptions,
    calibration: &Calibration,
    index: &Path,
    sidecar: &Path,
    cancel: &Cancel,
    progress: &dyn Fn(u64),
) -> Result<BuildReport> {
    let _ = (keys, vectors, options, calibration, index, sidecar, cancel, progress);
    todo!("index helper")
}

/// Reachability of every node of a saved index: walks the level-0 graph breadth first from the entry point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Nodes stored.
    pub nodes: u64,
    /// Keys of nodes that no walk reaches.
    pub orphans: Vec<u64>,
}

/// Audits a saved index file.
pub fn audit(index: &Path) -> Result<Audit> {
    let _ = index;
    todo!("index helper")
}

/// A memory-mapped index shard with its sidecar.
pub struct ShardIndex {}

/// One search hit: key and cosine similarity (higher is better).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The vector's key.
    pub key: u64,
    /// Cosine similarity; exact (f16 rounding) where rescored.
    pub score: f32,
}

impl ShardIndex {
    /// Maps both files; checks that they belong together (count, dimensions, options).
    pub fn open(
        index: &Path,
        sidecar: &Path,
        options: &IndexOptions,
        calibration: &Calibration,
    ) -> Result<Self> {
        let _ = (index, sidecar, options, calibration);
        todo!("index helper")
    }

    /// Vectors.
    pub fn len(&self) -> usize {
        todo!("index helper")
    }

    /// True without vectors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The k best by the graph, rescored from the sidecar if the options say so; best first, ties by key.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        let _ = (query, k);
        todo!("index helper")
    }

    /// The k best by exact scan of the sidecar; best first, ties by key.
    pub fn search_exact(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        let _ = (query, k);
        todo!("index helper")
    }

    /// Keys in ascending order.
    pub fn keys(&self) -> &[u64] {
        todo!("index helper")
    }

    /// The stored f16 vector of `key` as f32.
    pub fn vector(&self, key: u64) -> Option<Vec<f32>> {
        let _ = key;
        todo!("index helper")
    }
}
