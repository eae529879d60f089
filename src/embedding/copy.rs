//! Compaction: rows of old parts copied into a new one, bit for bit.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt32Type;
use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;

use super::object::parquet_error;
use super::read::{altered, open, read_vectors, select};
use super::{EncodedText, PartReceipt, write_part};
use crate::error::{Error, Result, ResultExt};
use crate::store::Root;
use crate::types::{Digest256, EmbeddingSpace, Embeddings, VectorType};

/// Copies the given rows (ascending, no repeats) of each part into one new part of `shard`, in the order of the map.
/// The vectors keep their bits: f16 stays f16 where every part has it.
///
/// # Errors
/// As [`super::read_vectors`] and [`write_part`].
pub async fn copy_rows(
    root: &Root,
    space: &EmbeddingSpace,
    shard: u32,
    picked: &BTreeMap<String, Vec<u32>>,
    provenance: &serde_json::Value,
) -> Result<PartReceipt> {
    let mut texts = Vec::new();
    let mut vectors = Embeddings::with_capacity(space.dimensions as usize, 0);
    let mut narrow = true;
    for (part, rows) in picked {
        let (found, vector_type) = read_texts(root, part, rows).await?;
        narrow &= vector_type == VectorType::F16;
        texts.extend(found);
        let found = read_vectors(root, part, rows).await?;
        if found.dimensions() != vectors.dimensions() {
            return Err(altered(part, format_args!("has {} dimensions", found.dimensions())));
        }
        found.rows().for_each(|row| vectors.push(row));
    }
    let vector_type = if narrow { VectorType::F16 } else { VectorType::F32 };
    write_part(root, space, shard, vector_type, &texts, &vectors, provenance).await
}

/// Everything but the vectors of the given rows, and the element type of the vectors.
async fn read_texts(
    root: &Root,
    part: &str,
    rows: &[u32],
) -> Result<(Vec<EncodedText>, VectorType)> {
    let builder = open(root, part).await?;
    let vector_type = match builder.schema().field_with_name("embedding") {
        Ok(field) if field.data_type().to_string().contains("Float16") => VectorType::F16,
        _ => VectorType::F32,
    };
    let columns = ["text_hash", "note_id", "token_count", "truncated"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    let selection = select(&builder, part, rows)?;
    let stream = builder
        .with_projection(mask)
        .with_row_selection(selection)
        .build()
        .map_err(|cause| parquet_error("reading", part, cause))?;
    let batches: Vec<_> =
        stream.try_collect().await.map_err(|cause| parquet_error("reading", part, cause))?;
    let mut texts = Vec::with_capacity(rows.len());
    for batch in &batches {
        let column = |name: &str| batch.column_by_name(name);
        let columns = (
            column("text_hash").and_then(|c| c.as_fixed_size_binary_opt()),
            column("note_id").and_then(|c| c.as_string_opt::<i32>()),
            column("token_count").and_then(|c| c.as_primitive_opt::<UInt32Type>()),
            column("truncated").and_then(|c| c.as_boolean_opt()),
        );
        let (Some(hashes), Some(notes), Some(tokens), Some(truncated)) = columns else {
            return Err(altered(part, "lacks a column"));
        };
        for row in 0..batch.num_rows() {
            let hash: [u8; 32] =
                hashes.value(row).try_into().map_err(|_| altered(part, "has short hashes"))?;
            texts.push(EncodedText {
                text_hash: Digest256(hash),
                note_id: notes.value(row).parse().context(|| format!("part file {part}"))?,
                token_count: tokens.value(row),
                truncated: truncated.value(row),
            });
        }
        if hashes.null_count() + notes.null_count() + tokens.null_count() > 0 {
            return Err(altered(part, "has missing values"));
        }
    }
    if texts.len() != rows.len() {
        return Err(Error::internal(format!(
            "{} rows were asked of part file {part}, {} came",
            rows.len(),
            texts.len()
        )));
    }
    Ok((texts, vector_type))
}
