//! Reading ids files by column, a batch at a time.

use std::panic::AssertUnwindSafe;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt32Type, UInt64Type};
use futures::{Stream, StreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;

use crate::error::{Error, ErrorKind, Result, ResultExt, broken, shielded_async};
use crate::schema;
use crate::store::{FileRef, ParquetObject, Root, kind_of_foreign};

/// Rows of one batch.
const BATCH: usize = 8192;

/// Opens an ids file for reading: its columns are checked against the contract.
pub async fn open(
    root: &Root,
    file: &FileRef,
) -> Result<ParquetRecordBatchStreamBuilder<ParquetObject>> {
    let reader = ParquetObject::new(root, &file.path, file.size);
    let opening = async {
        ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|cause| failed(file, cause))
    };
    let what = || format!("the ids file {}", file.path);
    let builder = shielded_async(ErrorKind::Corrupt, what, opening).await?.with_batch_size(BATCH);
    schema::stored_fields(builder.schema()).context(|| format!("reading {}", file.path))?;
    Ok(builder)
}

/// The named columns (in file order), batch by batch.
pub async fn read(
    root: &Root,
    file: &FileRef,
    columns: &[&str],
) -> Result<(SchemaRef, impl Stream<Item = Result<RecordBatch>> + Send + Unpin + use<>)> {
    let builder = open(root, file).await?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let stream = builder.with_projection(mask).build().map_err(|cause| failed(file, cause))?;
    let schema = std::sync::Arc::clone(stream.schema());
    let named = file.clone();
    let batches = AssertUnwindSafe(stream).catch_unwind().map(move |batch| match batch {
        Ok(batch) => batch.map_err(|cause| failed(&named, cause)),
        Err(_) => Err(broken(ErrorKind::Corrupt, format!("the ids file {}", named.path))),
    });
    Ok((schema, batches))
}

fn failed(file: &FileRef, cause: parquet::errors::ParquetError) -> Error {
    let kind = kind_of_foreign(&cause, ErrorKind::Corrupt);
    Error::new(kind, format!("cannot read the ids file {}", file.path)).with_source(cause)
}

/// A column of a batch by name, of a type that [`open`] has checked.
pub fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    batch
        .column_by_name(name)
        .map(AsRef::as_ref)
        .ok_or_else(|| Error::corrupt(format!("the ids file has no column {name}")))
}

/// `key`, `note_id` and `chunk` of a batch.
pub type Identity<'a> = (&'a [u64], &'a arrow::array::StringArray, &'a [u32]);

/// The identity columns of a batch that was read with them.
pub fn identity(batch: &RecordBatch) -> Result<Identity<'_>> {
    let wrong = || Error::corrupt("the ids file's identity columns have the wrong types");
    let keys = column(batch, "key")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let notes = column(batch, "note_id")?.as_string_opt::<i32>().ok_or_else(wrong)?;
    let chunks = column(batch, "chunk")?.as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?;
    if keys.null_count() + notes.null_count() + chunks.null_count() > 0 {
        return Err(Error::corrupt("the ids file has nulls where there must be none"));
    }
    Ok((keys.values(), notes, chunks.values()))
}
