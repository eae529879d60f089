//! What a run took over and what it wrote, for its report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Distinct texts by where their vectors came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Reuse {
    /// Encoded by this run.
    pub encoded: u64,
    /// The parent snapshot's shard has them.
    pub from_parent: u64,
    /// They lie in parts of other shards, other days or runs that did not finish.
    pub from_elsewhere: u64,
}

/// Bytes written under the root, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Written {
    /// Prepared notes and lists of where vectors lie; gone after retention.
    pub prepared: u64,
    /// Newly encoded vectors.
    pub parts: u64,
    /// Vectors copied by compaction.
    pub compacted: u64,
    /// usearch files.
    pub indexes: u64,
    /// f16 sidecars.
    pub sidecars: u64,
    /// ids files and lists of removed keys.
    pub ids: u64,
}

impl Written {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.prepared + self.parts + self.compacted + self.indexes + self.sidecars + self.ids
    }
}
