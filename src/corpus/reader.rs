//! Streams a prepared shard file.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt32Type};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::outcome::{PreparedBatch, PreparedRow, PreparedShard};
use super::writer::{CHUNK, DELETED, NOTE_ID, STORED, TEXT, TEXT_HASH, prepared_schema};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Root;
use crate::types::Digest256;

const BATCH_ROWS: usize = 1024;

/// Streams a prepared shard file in order, batch by batch, in memory bounded by one batch.
pub struct PreparedReader {
    key: String,
    stream: ParquetRecordBatchStream<StoredFile>,
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
        match root.size(&key).await? {
            Some(size) if size == shard.file.size => {}
            Some(size) => {
                return Err(Error::corrupt(format!(
                    "prepared file {key} has {size} bytes, {} were written; run prepare again",
                    shard.file.size
                )));
            }
            None => {
                return Err(Error::not_found(format!(
                    "prepared file {key} is gone; run prepare again"
                )));
            }
        }
        let (store, path) = root.object(&key);
        let object = StoredFile { store, path, size: shard.file.size };
        let builder =
            ParquetRecordBatchStreamBuilder::new(object).await.map_err(|e| failed(&key, e))?;
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
        let Some(batch) = self.stream.next().await else {
            if self.seen != self.expected {
                return Err(Error::corrupt(format!(
                    "{} holds {} rows, {} were written",
                    self.key, self.seen, self.expected
                )));
            }
            return Ok(None);
        };
        let batch = batch.map_err(|e| failed(&self.key, e))?;
        self.seen += batch.num_rows() as u64;
        let rows = rows(&batch)?;
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

fn rows(batch: &RecordBatch) -> Result<Vec<PreparedRow>> {
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
    let kind = match cause {
        // The store failed, not the file.
        ParquetError::External(_) => ErrorKind::Transient,
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, format!("reading prepared file {key}")).with_source(cause)
}

/// The ranges of a stored Parquet file.
struct StoredFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(cause: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(cause))
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let size = self.size;
        async move {
            let metadata = ParquetMetaDataReader::new().with_prefetch_hint(Some(64 << 10));
            Ok(Arc::new(metadata.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
