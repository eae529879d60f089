//! Streams a prepared shard file. Its SHA-256 is in the plan; all of it was hashed in this process, while it
//! was written or before it is opened, and every piece is checked again as it is read.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt32Type};
use futures::StreamExt;
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::errors::ParquetError;

use super::schema::{CHUNK, DELETED, NOTE_ID, STORED, TEXT, TEXT_HASH, prepared_schema};
use crate::corpus::outcome::{PreparedBatch, PreparedRow, PreparedShard};
use crate::error::{Error, ErrorKind, Result, ResultExt, shielded_async};
use crate::store::{ParquetObject, Root, parquet_error};
use crate::types::Digest256;

const BATCH_ROWS: usize = 1024;

/// Streams a prepared shard file in order, batch by batch, in memory bounded by one batch.
pub struct PreparedReader {
    key: String,
    stream: ParquetRecordBatchStream<ParquetObject>,
    stored: SchemaRef,
    expected: u64,
    seen: u64,
}

impl PreparedReader {
    /// Opens a prepared file.
    ///
    /// # Errors
    /// NotFound where the file is gone (retention removes it), Corrupt where it is not what was written.
    pub async fn open(root: &Root, shard: &PreparedShard) -> Result<Self> {
        let key = shard.file.path.clone();
        if root.size(&key).await?.is_none() {
            return Err(Error::not_found(format!(
                "prepared file {key} is gone; run prepare again"
            )));
        }
        let object = Box::pin(ParquetObject::checked(root, &shard.file)).await?;
        let opening = async {
            ParquetRecordBatchStreamBuilder::new(object).await.map_err(|e| failed(&key, e))
        };
        let opening = shielded_async(ErrorKind::Corrupt, || key.clone(), opening);
        let builder = Box::pin(opening).await?;
        let schema = builder.schema();
        let stored = schema.fields().iter().skip(STORED).cloned().collect();
        let names = |s: &SchemaRef| -> Vec<_> {
            s.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
        };
        if names(schema) != names(&prepared_schema(&stored)) {
            return Err(Error::corrupt(format!(
                "{key} does not have the columns of a prepared file"
            )));
        }
        let stored = arrow::datatypes::Schema::new(stored).into();
        let stream = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| failed(&key, e))?;
        Ok(Self { key, stream, stored, expected: shard.rows, seen: 0 })
    }

    /// The next batch of rows together with its stored columns; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<PreparedBatch>> {
        let key = &self.key;
        let stream = &mut self.stream;
        let next = async { stream.next().await.transpose().map_err(|e| failed(key, e)) };
        let next = shielded_async(ErrorKind::Corrupt, || key.clone(), next).await?;
        let Some(batch) = next else {
            if self.seen != self.expected {
                return Err(Error::corrupt(format!(
                    "{} holds {} rows, {} were written",
                    self.key, self.seen, self.expected
                )));
            }
            return Ok(None);
        };
        self.seen += batch.num_rows() as u64;
        let rows = rows(&batch).context(|| format!("reading prepared file {}", self.key))?;
        let columns = batch.columns()[STORED..].to_vec();
        let options =
            arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let stored = RecordBatch::try_new_with_options(self.stored.clone(), columns, &options)
            .map_err(|e| {
                Error::corrupt(format!("stored columns of {}", self.key)).with_source(e)
            })?;
        Ok(Some(PreparedBatch { rows, stored }))
    }
}

/// The rows of a batch with the columns of a prepared file.
pub(super) fn rows(batch: &RecordBatch) -> Result<Vec<PreparedRow>> {
    let ids = batch.column(NOTE_ID).as_string::<i32>();
    let chunks = batch.column(CHUNK).as_primitive::<UInt32Type>();
    let hashes = batch.column(TEXT_HASH).as_fixed_size_binary();
    let texts = batch.column(TEXT).as_string::<i32>();
    let deleted = batch.column(DELETED).as_boolean();
    (0..batch.num_rows())
        .map(|row| {
            let mut text_hash = Digest256([0; 32]);
            text_hash.0.copy_from_slice(hashes.value(row));
            Ok(PreparedRow {
                note_id: ids.value(row).parse()?,
                chunk: chunks.value(row),
                text_hash,
                text: texts.value(row).to_owned(),
                deleted: deleted.value(row),
            })
        })
        .collect()
}

fn failed(key: &str, cause: ParquetError) -> Error {
    parquet_error(format!("reading prepared file {key}"), cause)
}
