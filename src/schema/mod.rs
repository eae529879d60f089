//! The published file formats as Arrow schemas, and their text form in `schemas/`.
//!
//! Writers build their batches from these functions, readers check files against them, and a test compares the
//! committed text with what they say: the contract cannot drift.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::types::VectorType;

/// Columns of every ids file before the stored columns.
pub const IDS_COLUMNS: [&str; 6] = ["key", "note_id", "chunk", "text_hash", "part", "row"];

/// Schema of an ids file: one row per vector, ascending by `key`, no repeats.
///
/// `key` uint64 (the vector's key in the usearch file and the sidecar), `note_id` utf8 with its type tag (`i:42`,
/// `s:42`), `chunk` uint32 (0 unless notes are chunked), `text_hash` 32 bytes (SHA-256 of the rendered text), `part`
/// utf8 (key below the root of the Parquet file that holds the vector), `row` uint32 (its row there), then the
/// stored columns as the corpus gave them.
pub fn ids_schema(stored: &Fields) -> SchemaRef {
    let [key, note_id, chunk, text_hash, part, row] = IDS_COLUMNS;
    let fixed = [
        Field::new(key, DataType::UInt64, false),
        Field::new(note_id, DataType::Utf8, false),
        Field::new(chunk, DataType::UInt32, false),
        Field::new(text_hash, DataType::FixedSizeBinary(32), false),
        Field::new(part, DataType::Utf8, false),
        Field::new(row, DataType::UInt32, false),
    ];
    let fields = fixed.into_iter().map(Arc::new).chain(stored.iter().cloned());
    Arc::new(Schema::new(fields.collect::<Fields>()))
}

/// The stored columns of an ids file's schema.
///
/// # Errors
/// Corrupt, if the file does not start with [`IDS_COLUMNS`] in their types.
pub fn stored_fields(schema: &Schema) -> Result<Fields> {
    let fixed = ids_schema(&Fields::empty());
    for (at, expected) in fixed.fields().iter().enumerate() {
        let found = schema.fields().get(at);
        let fits = found.is_some_and(|found| {
            found.name() == expected.name() && found.data_type() == expected.data_type()
        });
        if !fits {
            return Err(Error::corrupt(format!(
                "column {at} of an ids file must be {} {}, not {}",
                expected.name(),
                expected.data_type(),
                found.map_or("missing".to_owned(), |f| format!("{} {}", f.name(), f.data_type()))
            )));
        }
    }
    Ok(schema.fields().iter().skip(fixed.fields().len()).cloned().collect())
}

/// Schema of an embedding part: one row per encoded text.
///
/// `text_hash` 32 bytes (with the space in the file's metadata it names the vector), `note_id` utf8 with its type tag
/// (the note it was first encoded for), `embedding` fixed-size list of `dimensions` f32 or f16, `token_count`
/// uint32 (prompt included), `truncated` boolean.
pub fn embedding_schema(dimensions: u32, vector_type: VectorType) -> SchemaRef {
    let element = match vector_type {
        VectorType::F32 => DataType::Float32,
        VectorType::F16 => DataType::Float16,
    };
    let element = Arc::new(Field::new_list_field(element, false));
    // A dimension is far below i32::MAX; Arrow's own limit for fixed-size lists.
    let length = i32::try_from(dimensions).unwrap_or(i32::MAX);
    Arc::new(Schema::new(vec![
        Field::new("text_hash", DataType::FixedSizeBinary(32), false),
        Field::new("note_id", DataType::Utf8, false),
        Field::new("embedding", DataType::FixedSizeList(element, length), false),
        Field::new("token_count", DataType::UInt32, false),
        Field::new("truncated", DataType::Boolean, false),
    ]))
}

/// A schema as text, one column a line: `name: type` and `not null` where it never is.
pub fn describe(schema: &Schema) -> String {
    let mut text = String::new();
    for field in schema.fields() {
        let null = if field.is_nullable() { "" } else { " not null" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {}{null}", field.name(), field.data_type());
    }
    text
}

/// `schemas/ids.arrow.txt`.
pub fn ids_contract() -> String {
    format!(
        "# ids file: indexes/<options>/<shard>/<ids>-<attempt>.ids.parquet\n\
         # One row per vector, ascending by key, no repeats. Stored columns of the corpus follow under their own names.\n\
         # note_id carries its type: i:42 is the integer 42, s:42 the string. part is a key below the root.\n\
         {}<stored column>: <as in the corpus>\n",
        describe(&ids_schema(&Fields::empty()))
    )
}

/// `schemas/embeddings.arrow.txt`.
pub fn embedding_contract() -> String {
    format!(
        "# embedding part: embeddings/<space>/<shard>/<part>-<attempt>.parquet\n\
         # One row per encoded text; shown for 576 dimensions in f32 (Float16 where the space stores f16).\n\
         # The file's key-value metadata names the embedding space and everything that decides it.\n\
         {}",
        describe(&embedding_schema(576, VectorType::F32))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_columns_follow_and_wrong_files_are_named() {
        let stored = Fields::from(vec![Field::new("title", DataType::Utf8, true)]);
        let schema = ids_schema(&stored);
        assert_eq!(stored_fields(&schema).unwrap(), stored);
        let error = stored_fields(&embedding_schema(8, VectorType::F16)).unwrap_err();
        assert!(error.to_string().contains("must be key UInt64"), "{error}");
    }
}
