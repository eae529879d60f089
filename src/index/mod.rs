//! usearch indexes: calibrated quantisation, single-thread builds, reachability audit, rescoring sidecar.
//!
//! Vectors are compared by cosine: every vector is scaled to unit length before it is stored, so that
//! the index, the sidecar and the queries agree whatever the tower's own normalisation is.
//!
//! | quantisation | stored element | metric in the file | a usearch distance `d` means |
//! |---|---|---|---|
//! | `f32`, `f16`, `bf16` | the unit vector | inner product | cosine = `1 - d` |
//! | `i8` | [`Calibration::quantize`] | cosine | cosine = `1 - d` |
//! | `b1` | sign bits, first dimension in the lowest bit | Hamming | cosine about `cos(pi * d / dimensions)` |
//!
//! A shard is a list of segments: a base index and small delta indexes of what came later, each immutable, with a
//! [`RowSet`] of the rows that still count (`stage::segments` says when which is written). Every function here takes
//! one segment, except [`measure`], which takes them together as they serve.
//!
//! Source of the graph: Malkov and Yashunin, HNSW, arXiv 1603.09320, as usearch 2.26 builds it.

mod build;
mod canary;
mod file;
mod quantize;
mod recall;
mod rescore;
mod row_set;
mod rows;
mod shard;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use build::{build, estimate_file_bytes, estimate_memory};
pub use canary::{check_canaries, record_canaries};
pub use file::{Audit, StoredKeys, audit, sidecar_keys, stored_keys};
pub use quantize::{Calibration, calibrate};
pub use recall::{Recall, measure};
pub use row_set::RowSet;
pub use rows::Hit;
pub use shard::ShardIndex;

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
    /// Links per node (HNSW M); twice as many in the base level.
    pub connectivity: usize,
    /// Candidates while building (efConstruction).
    pub expansion_add: usize,
    /// Candidates while searching (ef).
    pub expansion_search: usize,
    /// Candidates per asked result that the f16 sidecar rescores at most; 0 switches rescoring off.
    pub rescore: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            quantization: Quantization::I8,
            connectivity: 16,
            expansion_add: 128,
            expansion_search: 64,
            rescore: 8,
        }
    }
}

impl IndexOptions {
    /// 16 hex digits that name these options in paths.
    pub fn id(&self) -> Result<String> {
        Ok(crate::types::hash_json(self)?.short())
    }

    /// Refuses what usearch cannot build or no machine should try.
    ///
    /// # Errors
    /// Config, naming the field and its range.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("connectivity", self.connectivity, 2, crate::index::file::format::MAX_CONNECTIVITY),
            ("expansion_add", self.expansion_add, 1, 65_536),
            ("expansion_search", self.expansion_search, 1, 65_536),
            ("rescore", self.rescore, 0, 1_024),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::config(format!(
                    "index.{name} is {value}; it must lie between {low} and {high}"
                )));
            }
        }
        Ok(())
    }
}

/// What a build made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildReport {
    /// Vectors in the index.
    pub vectors: u64,
    /// Unreachable vectors found by the audit after repair; 0 in anything published.
    pub orphans: u64,
    /// Unreachable vectors that the repair linked in again.
    pub repaired: u64,
    /// recall@10 of the index as served (with rescoring) against exact search.
    pub recall: Recall,
    /// Share of i8 elements clipped; refit the scale when this grows.
    pub clipped: f64,
}
