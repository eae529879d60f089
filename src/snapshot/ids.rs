//! Reading ids files: whole, or some columns batch by batch; and the columns of a batch, checked and typed.

use std::sync::Arc;

use arrow::array::{
    Array, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::compute::concat_batches;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{Error, ErrorKind, Result, ResultExt, shielded};
use crate::schema;
use crate::store::{FileRef, Root};
use crate::types::computing;

/// Rows of one batch.
pub const BATCH: usize = 8192;

/// The named columns (in file order), batch by batch; all of the file's columns are checked against the contract.
/// Memory: the file, and a batch.
pub async fn read(
    root: &Root,
    file: &FileRef,
    columns: &[&str],
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let bytes = root.get_file(file).await?;
    let path = file.path.clone();
    let open = || {
        let builder = open(bytes)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        builder.with_projection(mask).build().or_error(ErrorKind::Corrupt, || "its columns")
    };
    let mut batches = shielded(ErrorKind::Corrupt, || format!("the ids file {path}"), open)
        .context(|| format!("reading the ids file {path}"))?;
    Ok(std::iter::from_fn(move || {
        let damaged = || format!("reading the ids file {path}");
        let next = || batches.next().transpose().or_error(ErrorKind::Corrupt, damaged);
        shielded(ErrorKind::Corrupt, damaged, next).transpose()
    }))
}

/// A whole ids file, fetched at once, as what `decode` makes of its one batch.
pub async fn read_whole<T>(
    root: &Root,
    file: &FileRef,
    decode: impl FnOnce(&RecordBatch) -> Result<T>,
) -> Result<T> {
    let bytes = root.get_file(file).await?;
    let damaged = || format!("reading ids file {} (run `scalingnote snapshot verify`)", file.path);
    let what = || format!("ids file {}", file.path);
    let decoding =
        || whole(bytes).and_then(|batch| decode(&batch)).or_error(ErrorKind::Corrupt, damaged);
    computing(|| shielded(ErrorKind::Corrupt, what, decoding))
}

/// Its footer, and that it has the columns of an ids file.
fn open(bytes: Bytes) -> Result<ParquetRecordBatchReaderBuilder<Bytes>> {
    let damaged = || "it is not an ids file";
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(bytes).or_error(ErrorKind::Corrupt, damaged)?;
    schema::stored_fields(builder.schema()).context(damaged)?;
    Ok(builder.with_batch_size(BATCH))
}

fn whole(bytes: Bytes) -> Result<RecordBatch> {
    let damaged = || "it is not an ids file";
    let reader = open(bytes)?;
    let schema = Arc::clone(reader.schema());
    let batches: Vec<RecordBatch> = reader
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
