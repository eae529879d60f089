//! Reading ids files: whole, or some columns batch by batch; and the columns of a batch, checked and typed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{
    Array, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::compute::concat_batches;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;

use crate::error::{Error, ErrorKind, Result, ResultExt, broken, shielded, shielded_async};
use crate::schema;
use crate::store::{FileRef, ParquetObject, Root, kind_of_foreign};

/// Rows of one batch.
pub const BATCH: usize = 8192;

/// The named columns (in file order), batch by batch; all of the file's columns are checked against the contract.
pub async fn read(
    root: &Root,
    file: &FileRef,
    columns: &[&str],
) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + Unpin + use<>> {
    let reader = ParquetObject::new(root, &file.path, file.size);
    let opening = async {
        ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|cause| failed(file, cause))
    };
    let what = || format!("the ids file {}", file.path);
    let builder = shielded_async(ErrorKind::Corrupt, what, opening).await?.with_batch_size(BATCH);
    schema::stored_fields(builder.schema()).context(|| format!("reading {}", file.path))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let stream = builder.with_projection(mask).build().map_err(|cause| failed(file, cause))?;
    let named = file.clone();
    Ok(AssertUnwindSafe(stream).catch_unwind().map(move |batch| match batch {
        Ok(batch) => batch.map_err(|cause| failed(&named, cause)),
        Err(_) => Err(broken(ErrorKind::Corrupt, format!("the ids file {}", named.path))),
    }))
}

fn failed(file: &FileRef, cause: parquet::errors::ParquetError) -> Error {
    let kind = kind_of_foreign(&cause, ErrorKind::Corrupt);
    Error::new(kind, format!("cannot read the ids file {}", file.path)).with_source(cause)
}

/// A whole ids file, fetched at once, as what `decode` makes of its one batch.
pub async fn read_whole<T>(
    root: &Root,
    file: &FileRef,
    decode: impl FnOnce(&RecordBatch) -> Result<T>,
) -> Result<T> {
    let bytes = root.get(&file.path).await?;
    let damaged = || format!("reading ids file {} (run `scalingnote snapshot verify`)", file.path);
    shielded(
        ErrorKind::Corrupt,
        || format!("ids file {}", file.path),
        || whole(bytes).and_then(|batch| decode(&batch)).or_error(ErrorKind::Corrupt, damaged),
    )
}

fn whole(bytes: Bytes) -> Result<RecordBatch> {
    let damaged = || "it is no ids file";
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).or_error(ErrorKind::Corrupt, damaged)?;
    let schema = Arc::clone(reader.schema());
    schema::stored_fields(&schema).context(damaged)?;
    let batches: Vec<RecordBatch> = reader
        .with_batch_size(BATCH)
        .build()
        .and_then(|batches| batches.collect::<std::result::Result<_, _>>().map_err(Into::into))
        .or_error(ErrorKind::Corrupt, damaged)?;
    concat_batches(&schema, &batches).or_error(ErrorKind::Corrupt, damaged)
}

/// A column that the batch was read with.
fn column<'a, A: 'static + Array>(batch: &'a RecordBatch, name: &str) -> Result<&'a A> {
    let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<A>());
    let column = column.ok_or_else(|| {
        Error::corrupt(format!("the ids file has no column `{name}` of the right type"))
    })?;
    match column.null_count() {
        0 => Ok(column),
        _ => Err(Error::corrupt("the ids file has nulls where there must be none")),
    }
}

/// The vectors' keys in index and sidecar.
pub fn keys(batch: &RecordBatch) -> Result<&[u64]> {
    Ok(column::<UInt64Array>(batch, "key")?.values())
}

/// Note ids with their type tag.
pub fn notes(batch: &RecordBatch) -> Result<&StringArray> {
    column(batch, "note_id")
}

/// Which chunk of its note each row is.
pub fn chunks(batch: &RecordBatch) -> Result<&[u32]> {
    Ok(column::<UInt32Array>(batch, "chunk")?.values())
}

/// Hashes of the rendered texts.
pub fn text_hashes(batch: &RecordBatch) -> Result<&[[u8; 32]]> {
    let column: &FixedSizeBinaryArray = column(batch, "text_hash")?;
    let hashes = column.value_data().as_chunks().0;
    let hashes = hashes.get(..column.len()).filter(|_| column.value_length() == 32);
    hashes.ok_or_else(|| Error::corrupt("column `text_hash` must hold 32 bytes a row"))
}

/// Keys of the parts that hold the vectors.
pub fn parts(batch: &RecordBatch) -> Result<&StringArray> {
    column(batch, "part")
}

/// The vectors' rows in their parts.
pub fn rows(batch: &RecordBatch) -> Result<&[u32]> {
    Ok(column::<UInt32Array>(batch, "row")?.values())
}
