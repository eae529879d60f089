//! The digests of a shard: equal ones mean that nothing in it changed.

use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;

use super::values::ValueBytes;
use crate::error::Result;
use crate::types::{Digest256, Hasher256};

/// The digests over the rows of a shard, pushed in the order of (note id, chunk).
pub struct ShardDigest {
    content: Hasher256,
    columns: Hasher256,
}

/// What a row adds to the digest of the content.
pub struct DigestRow<'a> {
    /// Tagged note id.
    pub note: &'a str,
    /// Chunk number.
    pub chunk: u32,
    /// Hash of the rendered text.
    pub text_hash: &'a [u8],
    /// Whether the row deletes the note.
    pub deleted: bool,
}

impl ShardDigest {
    /// For rows with these stored columns.
    pub fn new<'a>(stored: impl IntoIterator<Item = &'a FieldRef>) -> Self {
        let mut columns = Hasher256::new();
        for field in stored {
            columns.field(field.name()).field(field.data_type().to_string());
        }
        Self { content: Hasher256::new(), columns }
    }

    /// Adds rows; `stored` are their stored columns.
    pub fn push<'a>(
        &mut self,
        rows: impl Iterator<Item = DigestRow<'a>>,
        stored: &[ArrayRef],
    ) -> Result<()> {
        let stored: Vec<ValueBytes> = stored.iter().map(ValueBytes::new).collect::<Result<_>>()?;
        let mut spelled = Vec::new();
        for (at, row) in rows.enumerate() {
            self.content
                .field(row.note)
                .raw(row.chunk.to_le_bytes())
                .raw(row.text_hash)
                .raw([u8::from(row.deleted)]);
            if !stored.is_empty() {
                spelled.clear();
                stored.iter().for_each(|column| column.append(at, &mut spelled));
                self.columns.field(&spelled);
            }
        }
        Ok(())
    }

    /// The digest of the content and that of the stored columns.
    pub fn finish(self) -> (Digest256, Digest256) {
        (self.content.finish(), self.columns.finish())
    }
}
