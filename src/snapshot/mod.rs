//! Snapshots: the manifest, its one commit point, and what is done to it later (diff, rollback, gc).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::{FileRef, Root};
use crate::types::{Digest256, EmbeddingSpace, SpaceId, VectorType};

/// Version of the manifest format that this release writes.
pub const MANIFEST_VERSION: u32 = 1;

/// The JSON that is the snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version ([`MANIFEST_VERSION`]).
    pub version: u32,
    /// This snapshot's number, from 1.
    pub number: u64,
    /// Number of the snapshot it was made from.
    pub parent: Option<u64>,
    /// SHA-256 of `content`: names what readers get.
    pub content_hash: Digest256,
    /// What readers get.
    pub content: Content,
    /// Content hashes that must not be published again (rolled back).
    pub blocked: Vec<Digest256>,
    /// How it came about; never decides what a reader gets.
    pub provenance: Provenance,
}

/// The hashed part of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Name of the embedding space.
    pub space_id: SpaceId,
    /// What its vectors mean.
    pub space: EmbeddingSpace,
    /// Notes over all shards.
    pub notes: u64,
    /// Vectors over all shards (more than notes where long notes are chunked).
    pub vectors: u64,
    /// Number of shards of the pinned hash.
    pub shard_count: u32,
    /// Index options and frozen scale, as their own JSON (`index::IndexOptions`, `index::Calibration`).
    pub index: IndexContent,
    /// One entry per shard, in order.
    pub shards: Vec<ShardContent>,
    /// Every embedding part that a live vector lies in, sorted by path.
    pub parts: Vec<FileRef>,
    /// Names of the stored columns.
    pub stored_columns: Vec<String>,
    /// Towers that may encode queries for this space.
    pub query_towers: Vec<QueryTower>,
}

/// How every shard's index was built. Kept as JSON so that this module does not depend on the index's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexContent {
    /// 16 hex digits naming the options in paths.
    pub options_id: String,
    /// The options.
    pub options: serde_json::Value,
    /// The frozen quantisation scale.
    pub calibration: serde_json::Value,
}

/// One shard of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardContent {
    /// Shard number.
    pub shard: u32,
    /// Notes.
    pub notes: u64,
    /// Vectors.
    pub vectors: u64,
    /// Unreachable vectors; always 0 in a published snapshot.
    pub orphans: u64,
    /// Digest of the prepared notes and stored columns that it was made from; absent after a delta.
    pub source: Option<Digest256>,
    /// Keys of the parts that its vectors lie in, sorted.
    pub parts: Vec<String>,
    /// The usearch file; absent in an empty shard.
    pub index: Option<FileRef>,
    /// The f16 sidecar; absent in an empty shard.
    pub sidecar: Option<FileRef>,
    /// The ids file: key -> note_id, chunk, text_hash, part, row, stored columns; sorted by key.
    pub ids: FileRef,
}

/// A tower admitted to encode queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryTower {
    /// SHA-256 over everything that decides its vectors.
    pub fingerprint: Digest256,
    /// `document-tower` (the LLM itself) or `distilled`.
    pub kind: String,
    /// How to load it (`tower::TowerOptions` as JSON).
    pub options: serde_json::Value,
}

/// How a snapshot came about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Host name.
    pub host: String,
    /// Release of this program.
    pub program: String,
    /// Run that published it, or the command (`rollback to 41`).
    pub run: String,
    /// SHA-256 of the SQL.
    pub sql: Option<Digest256>,
    /// Input files as they were when read.
    pub inputs: Vec<serde_json::Value>,
    /// Gates with their measured values.
    pub gates: Vec<GateOutcome>,
    /// Pooled recall and other measurements, by name.
    pub measured: BTreeMap<String, serde_json::Value>,
}

/// One gate's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateOutcome {
    /// Gate name: `recall`, `orphans`, `count-change`, `rejected`, `quarantined`, `vectors`, `drift`.
    pub gate: String,
    /// Whether it passed.
    pub passed: bool,
    /// What was measured and what is required, for people.
    pub detail: String,
    /// Reason of a human override, if it was overridden.
    pub overridden: Option<String>,
}

/// What a commit found. Losing a race is a value, not an error.
#[derive(Debug, Clone, PartialEq)]
pub enum CommitOutcome {
    /// This snapshot is now the newest.
    Committed(Box<Manifest>),
    /// Another publisher was first; its manifest.
    LostTo(Box<Manifest>),
    /// The content was rolled back before and is blocked.
    Blocked {
        /// The newest snapshot, which carries the block.
        by: u64,
    },
}

/// The newest manifest, `None` in an empty root. Checks version and content hash.
pub async fn newest(root: &Root) -> Result<Option<Manifest>> {
    let _ = root;
    todo!("snapshot helper")
}

/// The manifest with this number. NotFound names the numbers there are.
pub async fn read(root: &Root, number: u64) -> Result<Manifest> {
    let _ = (root, number);
    todo!("snapshot helper")
}

/// All snapshot numbers, ascending.
pub async fn numbers(root: &Root) -> Result<Vec<u64>> {
    let _ = root;
    todo!("snapshot helper")
}

/// Re-checks that every object exists with its size, then puts manifest `parent + 1` if absent, and only if
/// `parent` is still the newest.
pub async fn commit(
    root: &Root,
    parent: Option<&Manifest>,
    content: Content,
    blocked: Vec<Digest256>,
    provenance: Provenance,
) -> Result<CommitOutcome> {
    let _ = (root, parent, content, blocked, provenance);
    todo!("snapshot helper")
}

/// How many snapshots stay, and how young anything must be to be left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Newest snapshots kept.
    pub snapshots: u32,
    /// Unreferenced objects younger than this many hours are left alone (readers, running attempts).
    pub grace_hours: u32,
    /// Run folders and prepared text older than this many days go.
    pub runs_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { snapshots: 7, grace_hours: 24, runs_days: 7 }
    }
}

/// Element type and dimension of a snapshot's stored embeddings, for readers of Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorShape {
    /// Element type.
    pub vector_type: VectorType,
    /// Dimensions.
    pub dimensions: u32,
}
