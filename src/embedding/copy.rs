//! Compaction: rows of old parts copied into a new one, bit for bit.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;

use super::columns::{NAMES, TextColumns};
use super::object::{altered, open_key};
use super::read::{begin, read_vectors, select};
use super::{EncodedText, PartReceipt, write_part};
use crate::error::{Error, ErrorKind, Result, shielded_async};
use crate::store::{Root, parquet_error};
use crate::types::{EmbeddingSpace, Embeddings, VectorType};

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
        let what = || format!("part file {part}");
        let (found, vector_type) =
            shielded_async(ErrorKind::Corrupt, what, read_texts(root, part, rows)).await?;
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
    let opened = Box::pin(open_key(root, part)).await?;
    let builder = Box::pin(begin(opened, part)).await?;
    let vector_type = match builder.schema().field_with_name("embedding") {
        Ok(field) if field.data_type().to_string().contains("Float16") => VectorType::F16,
        _ => VectorType::F32,
    };
    let mask = ProjectionMask::columns(builder.parquet_schema(), NAMES);
    let selection = select(&builder, part, rows)?;
    let failed = |cause| parquet_error(format!("reading part file {part}"), cause);
    let mut stream =
        builder.with_projection(mask).with_row_selection(selection).build().map_err(failed)?;
    let mut texts = Vec::with_capacity(rows.len());
    while let Some(batch) = stream.try_next().await.map_err(failed)? {
        let columns = TextColumns::of(&batch, part)?;
        for row in 0..columns.len() {
            texts.push(columns.text(row)?);
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
