//! The columns of a prepared file.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

/// Names that prepared files, parts and `ids` files use themselves: no stored column may have one.
pub const RESERVED_COLUMNS: [&str; 9] =
    ["note_id", "chunk", "text_hash", "text", "deleted", "key", "part", "row", "embedding"];

pub(super) const NOTE_ID: usize = 0;
pub(super) const CHUNK: usize = 1;
pub(super) const TEXT_HASH: usize = 2;
pub(super) const TEXT: usize = 3;
pub(super) const DELETED: usize = 4;
/// The stored columns start here.
pub(super) const STORED: usize = 5;

/// Columns of a prepared file: `note_id` utf8 (tagged), `chunk` uint32, `text_hash` fixed 32, `text` utf8,
/// `deleted` bool, then the stored columns with their own types.
pub fn prepared_schema(stored: &Fields) -> SchemaRef {
    let own = [
        Field::new("note_id", DataType::Utf8, false),
        Field::new("chunk", DataType::UInt32, false),
        Field::new("text_hash", DataType::FixedSizeBinary(32), false),
        Field::new("text", DataType::Utf8, false),
        Field::new("deleted", DataType::Boolean, false),
    ];
    let fields: Fields = own.into_iter().map(Arc::new).chain(stored.iter().cloned()).collect();
    Arc::new(Schema::new(fields))
}
