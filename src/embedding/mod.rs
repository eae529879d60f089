//! Embedding Parquet: append-only parts of newly encoded vectors, and their receipts.
//!
//! | column | Arrow type | meaning |
//! |---|---|---|
//! | `text_hash` | `FixedSizeBinary(32)` | SHA-256 of the rendered text |
//! | `note_id` | `Utf8` | type-tagged id of the note it was first needed for (`i:42`, `s:42`) |
//! | `embedding` | `FixedSizeList<Float32 or Float16>` | the vector |
//! | `token_count` | `UInt32` | tokens that went through the tower |
//! | `truncated` | `Boolean` | whether the text was cut to fit |
//!
//! No column holds nulls. The file's key-value metadata says what the vectors mean (`scalingnote.*`, see
//! the constants in [`metadata`]).

mod columns;
mod copy;
mod external;
pub mod metadata;
mod object;
mod read;
mod rewrite;
mod write;

use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, ResultExt, unreadable};
use crate::store::layout::{self, Key};
use crate::store::receipt::Receipt;
use crate::store::{FileRef, Pieces, Root};
use crate::types::{NoteId, SpaceId, TextHash, VectorType};

pub use copy::copy_rows;
pub use external::read_by_text_hash;
pub use read::{read_text_hashes, read_vectors};
pub use rewrite::{Fate, Rewritten, rewrite_part};
pub use write::{schema, write_part};

/// Version of [`PartReceipt`] that this release writes and reads.
pub const RECEIPT_VERSION: u32 = 1;

/// Receipts read at the same time.
const READS: usize = 16;

/// One encoded text; its vector is in the same row of an [`crate::types::Embeddings`].
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
    /// Hashes of the file's pieces, for partial reads; earlier releases wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Pieces>,
}

impl Receipt for PartReceipt {
    fn files(&self) -> Vec<&FileRef> {
        vec![&self.file]
    }
}

impl PartReceipt {
    /// Key of this receipt.
    pub(crate) fn key(&self) -> String {
        layout::part_receipt(&self.space, self.shard, &self.part)
    }

    /// Reads the receipt at `key` and checks that it belongs there.
    ///
    /// # Errors
    /// NotFound; Corrupt or Unsupported, naming the receipt.
    pub async fn read(root: &Root, space: &SpaceId, key: &str) -> Result<Self> {
        let bytes = root.get(key).await?;
        let parsed: serde_json::Value = serde_json::from_slice(&bytes)
            .or_error(ErrorKind::Corrupt, || format!("reading the receipt {key}"))?;
        match parsed.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(RECEIPT_VERSION) => {}
            Some(version) => {
                return Err(Error::unsupported(format!(
                    "receipt {key} has version {version}, this release reads {RECEIPT_VERSION}: use the \
                         release that wrote it, or another root"
                )));
            }
            None => return Err(Error::corrupt(format!("receipt {key} has no version"))),
        }
        let receipt: Self = serde_json::from_value(parsed).map_err(|cause| {
            let what = format!("receipt {key}");
            unreadable(cause, what, format!("reading the receipt {key}"))
        })?;
        let place = layout::parse(&receipt.file.path);
        let belongs = receipt.space == *space
            && receipt.key() == key
            && receipt.pieces.as_ref().is_none_or(|pieces| pieces.cover(receipt.file.size))
            && matches!(place, Some(Key::Part { space: ours, shard, .. })
                if ours == *space && shard == receipt.shard);
        if belongs {
            Ok(receipt)
        } else {
            Err(Error::corrupt(format!(
                "receipt {key} names a space, shard, part, file or pieces that are not its own: it was moved or altered"
            )))
        }
    }
}

/// All receipts of a space (every shard), sorted by key; with `shard`, of that shard only.
/// Part files without a receipt are other attempts' leavings and are passed over.
///
/// # Errors
/// Corrupt or Unsupported, naming the receipt, where one cannot be read.
pub async fn list_parts(
    root: &Root,
    space: &SpaceId,
    shard: Option<u32>,
) -> Result<Vec<PartReceipt>> {
    let folder = match shard {
        Some(shard) => layout::parts_dir(space, shard),
        None => layout::embeddings_dir(space),
    };
    let listed = root.list(&folder).await?;
    let keys = listed
        .into_iter()
        .map(|object| object.key)
        .filter(|key| matches!(layout::parse(key), Some(Key::PartReceipt { .. })));
    futures::stream::iter(keys.collect::<Vec<_>>())
        .map(|key| async move { PartReceipt::read(root, space, &key).await })
        .buffered(READS)
        .try_collect()
        .await
}
