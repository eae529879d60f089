//! Embedding Parquet: append-only parts of newly encoded vectors, and their receipts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::{FileRef, Root};
use crate::types::{EmbeddingSpace, Embeddings, NoteId, SpaceId, TextHash, VectorType};

/// One encoded text; its vector stands in the same row of an [`Embeddings`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedText {
    /// Hash of the rendered text.
    pub text_hash: TextHash,
    /// The note it was first needed for (the same text may serve others).
    pub note_id: NoteId,
    /// Tokens that went through the tower, prompt included.
    pub token_count: u32,
    /// Whether the text was cut to fit.
    pub truncated: bool,
}

/// A finished part: JSON beside the file, put-if-absent; the first receipt wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartReceipt {
    /// Format version of this receipt.
    pub version: u32,
    /// Embedding space.
    pub space: SpaceId,
    /// Shard that the part was written for.
    pub shard: u32,
    /// Part id: 16 hex digits over (space, text hashes in order).
    pub part: String,
    /// The file.
    pub file: FileRef,
    /// Rows.
    pub rows: u64,
    /// Tokens encoded.
    pub tokens: u64,
    /// Element type.
    pub vector_type: VectorType,
    /// Dimensions.
    pub dimensions: u32,
}

/// Writes one part and its receipt. If another attempt's receipt is there already, deletes nothing,
/// leaves the own file to gc, and returns the receipt that counts.
pub async fn write_part(
    root: &Root,
    space: &EmbeddingSpace,
    shard: u32,
    vector_type: VectorType,
    texts: &[EncodedText],
    vectors: &Embeddings,
    provenance: &serde_json::Value,
) -> Result<PartReceipt> {
    let _ = (root, space, shard, vector_type, texts, vectors, provenance);
    todo!("embedding helper")
}

/// All receipts of a space (every shard), sorted by key; with `shard`, of that shard only.
pub async fn list_parts(
    root: &Root,
    space: &SpaceId,
    shard: Option<u32>,
) -> Result<Vec<PartReceipt>> {
    let _ = (root, space, shard);
    todo!("embedding helper")
}

/// The `text_hash` column of a part, in row order, without reading vectors.
pub async fn read_text_hashes(root: &Root, part: &PartReceipt) -> Result<Vec<TextHash>> {
    let _ = (root, part);
    todo!("embedding helper")
}

/// The vectors of the given rows (any order, repeats allowed) of a part file, in the order asked, as f32.
/// Memory: the vectors asked for plus one row group.
pub async fn read_vectors(root: &Root, part: &str, rows: &[u32]) -> Result<Embeddings> {
    let _ = (root, part, rows);
    todo!("embedding helper")
}
