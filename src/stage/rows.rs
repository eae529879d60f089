//! Whose the rows of a stored Parquet file are, whatever kind of file it is.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt64Type;
use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;

use super::written::Written;
use crate::error::{ErrorKind, Result, shielded_async};
use crate::store::{ParquetObject, Root, layout, parquet_error};
use crate::types::{Digest256, NoteId, TextHash};

/// The columns that say whose a row is.
pub(crate) const WHOSE: [&str; 3] = ["note_id", "text_hash", "key"];
/// Rows decoded together.
const BATCH: usize = 8192;

/// A row as far as it can tell whose it is.
pub(crate) struct Row<'a> {
    /// Tagged note id.
    pub note: Option<&'a str>,
    pub hash: Option<TextHash>,
    pub key: Option<u64>,
    pub text: Option<&'a str>,
}

/// Every row of a Parquet file of ours, with these columns.
pub(crate) async fn visit(
    root: &Root,
    (key, size): (&str, u64),
    written: &Written,
    columns: &[&str],
    each: &mut (dyn FnMut(Row<'_>) + Send),
) -> Result<()> {
    let rows = rows(root, (key, size), written, columns, each);
    shielded_async(ErrorKind::Corrupt, || key.to_owned(), rows).await
}

async fn rows(
    root: &Root,
    (key, size): (&str, u64),
    written: &Written,
    columns: &[&str],
    each: &mut (dyn FnMut(Row<'_>) + Send),
) -> Result<()> {
    let failed = |cause| parquet_error(format!("reading {key}"), cause);
    let mut file = ParquetObject::new(root, key, size);
    // A note whose id was damaged would be passed over.
    if let Some(short) = layout::hash_in_name(key) {
        file = file.with_pieces(root.pieces_by_name(key, size, &short).await?);
    } else if let Some(written) = written.get(key) {
        file = ParquetObject::checked(root, written).await?;
    }
    let builder = ParquetRecordBatchStreamBuilder::new(file).await.map_err(failed)?;
    let roots: Vec<usize> =
        columns.iter().filter_map(|name| builder.schema().index_of(name).ok()).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let mut stream =
        builder.with_projection(mask).with_batch_size(BATCH).build().map_err(failed)?;
    while let Some(batch) = stream.try_next().await.map_err(failed)? {
        let notes = batch.column_by_name("note_id").and_then(|c| c.as_string_opt::<i32>());
        let hashes = batch.column_by_name("text_hash").and_then(|c| c.as_fixed_size_binary_opt());
        let keys = batch.column_by_name("key").and_then(|c| c.as_primitive_opt::<UInt64Type>());
        let texts = batch.column_by_name("text").and_then(|c| c.as_string_opt::<i32>());
        for at in 0..batch.num_rows() {
            let hash = hashes.filter(|column| column.is_valid(at));
            each(Row {
                note: notes.filter(|column| column.is_valid(at)).map(|column| column.value(at)),
                hash: hash.and_then(|column| column.value(at).try_into().ok()).map(Digest256),
                key: keys.filter(|column| column.is_valid(at)).map(|column| column.value(at)),
                text: texts.filter(|column| column.is_valid(at)).map(|column| column.value(at)),
            });
        }
    }
    Ok(())
}

/// The notes that some rows of a Parquet file are of, where `wanted` picks them.
pub(crate) async fn notes_in(
    root: &Root,
    (key, size): (&str, u64),
    written: &Written,
    wanted: &(dyn Fn(&NoteId) -> bool + Sync),
) -> Result<BTreeSet<NoteId>> {
    let (mut found, mut last) = (BTreeSet::new(), String::new());
    visit(root, (key, size), written, &["note_id"], &mut |row| {
        // The chunks of a note follow each other.
        let new = row.note.filter(|note| *note != last);
        if let Some(note) = new {
            note.clone_into(&mut last);
            found.extend(note.parse().ok().filter(wanted));
        }
    })
    .await?;
    Ok(found)
}
