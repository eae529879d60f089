//! What a part says of its texts beside their vectors, as the columns of one batch.

use arrow::array::{
    Array, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::UInt32Type;

use super::EncodedText;
use super::object::altered;
use crate::error::{Result, ResultExt};
use crate::types::{Digest256, TextHash};

/// The columns that [`TextColumns`] reads.
pub(super) const NAMES: [&str; 4] = ["text_hash", "note_id", "token_count", "truncated"];

/// The texts of one batch. No value is missing and every hash has 32 bytes.
pub(super) struct TextColumns<'a> {
    key: &'a str,
    hashes: &'a FixedSizeBinaryArray,
    notes: &'a StringArray,
    tokens: &'a UInt32Array,
    truncated: &'a BooleanArray,
}

impl<'a> TextColumns<'a> {
    /// Of a batch of the part file `key`.
    ///
    /// # Errors
    /// Corrupt where a column lacks, is of another type, or lacks a value.
    pub fn of(batch: &'a RecordBatch, key: &'a str) -> Result<Self> {
        let columns = || {
            let tokens = batch.column_by_name("token_count")?.as_primitive_opt::<UInt32Type>()?;
            Some(Self {
                key,
                hashes: hashes(batch)?,
                notes: batch.column_by_name("note_id")?.as_string_opt::<i32>()?,
                tokens,
                truncated: batch.column_by_name("truncated")?.as_boolean_opt()?,
            })
        };
        let whole = |all: &Self| {
            all.notes.null_count() + all.tokens.null_count() + all.truncated.null_count() == 0
        };
        columns().filter(whole).ok_or_else(|| altered(key, "has not the columns of a part"))
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Hash of a rendered text.
    pub fn hash(&self, row: usize) -> TextHash {
        hash_at(self.hashes, row)
    }

    /// The tagged id of the note that the text was encoded for.
    pub fn note(&self, row: usize) -> &'a str {
        self.notes.value(row)
    }

    /// Tokens of a text.
    pub fn tokens(&self, row: usize) -> u32 {
        self.tokens.value(row)
    }

    /// Everything.
    ///
    /// # Errors
    /// Corrupt where the note id is none.
    pub fn text(&self, row: usize) -> Result<EncodedText> {
        Ok(EncodedText {
            text_hash: self.hash(row),
            note_id: self.note(row).parse().context(|| format!("part file {}", self.key))?,
            token_count: self.tokens(row),
            truncated: self.truncated.value(row),
        })
    }
}

/// The `text_hash` column of a batch; `None` where it is not one of 32 bytes without missing values.
pub(super) fn hashes(batch: &RecordBatch) -> Option<&FixedSizeBinaryArray> {
    let column = batch.column_by_name("text_hash")?.as_fixed_size_binary_opt()?;
    (column.value_length() == 32 && column.null_count() == 0).then_some(column)
}

/// One value of a column that [`hashes`] gave.
pub(super) fn hash_at(column: &FixedSizeBinaryArray, row: usize) -> TextHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(column.value(row));
    Digest256(hash)
}
