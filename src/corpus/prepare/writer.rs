//! Writes prepared shards one after the other: Parquet, hashed and digested on the way.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, UInt32Type};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use tokio::io::AsyncWriteExt;

use super::digest::{DigestRow, ShardDigest};
use super::render::Piece;
use super::schema::{CHUNK, DELETED, NOTE_ID, STORED, TEXT, TEXT_HASH};
use crate::corpus::outcome::PreparedShard;
use crate::error::{Error, ErrorKind, Result, ResultExt, way_out_of};
use crate::store::{FileHasher, FileRef, Root, kind_of_foreign, layout};

/// Rows and bytes of text of one write: fixed, so that the file's bytes do not depend on how batches arrived.
const WRITE_ROWS: usize = 4096;
const WRITE_BYTES: usize = 8 << 20;
/// A reader holds one row group of compressed bytes.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Writes these shards of one run in order; one file is open at a time.
pub(super) struct ShardWriter {
    root: Root,
    run: String,
    schema: SchemaRef,
    /// Those that are not done yet; the first may be open.
    left: Range<u32>,
    open: Option<OpenShard>,
    done: Vec<PreparedShard>,
}

impl ShardWriter {
    pub(super) fn new(root: Root, run: String, schema: SchemaRef, shards: Range<u32>) -> Self {
        Self { root, run, schema, left: shards, open: None, done: Vec::new() }
    }

    /// Writes rows; shards must come in order.
    pub(super) async fn push(&mut self, piece: Piece) -> Result<()> {
        self.close_until(piece.shard).await?;
        let open = self.open_next()?;
        if open.shard != piece.shard {
            return Err(Error::internal("prepared rows arrived out of shard order"));
        }
        open.push(piece).await
    }

    /// Closes the last file, writes the empty ones, and returns all shards in order.
    pub(super) async fn finish(mut self) -> Result<Vec<PreparedShard>> {
        self.close_until(self.left.end).await?;
        Ok(self.done)
    }

    async fn close_until(&mut self, shard: u32) -> Result<()> {
        while self.left.start < shard {
            self.open_next()?;
            if let Some(open) = self.open.take() {
                self.done.push(open.close(&self.root).await?);
                self.left.start += 1;
            }
        }
        Ok(())
    }

    fn open_next(&mut self) -> Result<&mut OpenShard> {
        let next = match self.open.take() {
            Some(open) => open,
            None => OpenShard::new(&self.root, &self.run, self.left.start, &self.schema)?,
        };
        Ok(self.open.insert(next))
    }
}

struct OpenShard {
    shard: u32,
    key: String,
    writer: AsyncArrowWriter<HashingWriter>,
    schema: SchemaRef,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    notes: u64,
    rows: u64,
    deletions: u64,
    digest: ShardDigest,
}

impl OpenShard {
    fn new(root: &Root, run: &str, shard: u32, schema: &SchemaRef) -> Result<Self> {
        let key = layout::prepared(run, shard);
        let (store, path) = root.object(&key);
        let sink =
            HashingWriter { sink: BufWriter::new(store, path), hasher: FileHasher::default() };
        let writer = AsyncArrowWriter::try_new(sink, Arc::clone(schema), Some(properties()))
            .or_error(ErrorKind::Internal, || format!("opening {key}"))?;
        Ok(Self {
            shard,
            key,
            writer,
            schema: Arc::clone(schema),
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            notes: 0,
            rows: 0,
            deletions: 0,
            digest: ShardDigest::new(schema.fields().iter().skip(STORED)),
        })
    }

    async fn push(&mut self, piece: Piece) -> Result<()> {
        self.notes += piece.notes;
        self.deletions += piece.deletions;
        self.rows += piece.rows.num_rows() as u64;
        self.add_to_digest(&piece.rows)?;
        let text = piece.rows.column(TEXT).as_string::<i32>();
        let mut from = 0;
        for row in 0..piece.rows.num_rows() {
            self.pending_rows += 1;
            self.pending_bytes += text.value_length(row) as usize;
            if self.pending_rows >= WRITE_ROWS || self.pending_bytes >= WRITE_BYTES {
                self.pending.push(piece.rows.slice(from, row + 1 - from));
                from = row + 1;
                self.write_pending().await?;
            }
        }
        if from < piece.rows.num_rows() {
            self.pending.push(piece.rows.slice(from, piece.rows.num_rows() - from));
        }
        Ok(())
    }

    fn add_to_digest(&mut self, rows: &RecordBatch) -> Result<()> {
        let ids = rows.column(NOTE_ID).as_string::<i32>();
        let chunks = rows.column(CHUNK).as_primitive::<UInt32Type>();
        let hashes = rows.column(TEXT_HASH).as_fixed_size_binary();
        let deleted = rows.column(DELETED).as_boolean();
        let digested = (0..rows.num_rows()).map(|row| DigestRow {
            note: ids.value(row),
            chunk: chunks.value(row),
            text_hash: hashes.value(row),
            deleted: deleted.value(row),
        });
        self.digest.push(digested, &rows.columns()[STORED..])
    }

    async fn write_pending(&mut self) -> Result<()> {
        let doing = || format!("writing {}", self.key);
        let batch =
            concat_batches(&self.schema, &self.pending).or_error(ErrorKind::Internal, doing)?;
        self.pending.clear();
        (self.pending_rows, self.pending_bytes) = (0, 0);
        self.writer.write(&batch).await.map_err(|e| self.failed(e))?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush().await.map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    async fn close(mut self, root: &Root) -> Result<PreparedShard> {
        if self.pending_rows > 0 {
            self.write_pending().await?;
        }
        self.writer.finish().await.map_err(|e| self.failed(e))?;
        let sink = self.writer.into_inner();
        root.sync(&self.key).await?;
        let (content, columns) = self.digest.finish();
        let (sha256, size) = sink.hasher.finish();
        Ok(PreparedShard {
            shard: self.shard,
            file: FileRef { path: self.key, size, sha256 },
            notes: self.notes,
            rows: self.rows,
            deletions: self.deletions,
            content,
            columns,
        })
    }

    fn failed(&self, cause: ParquetError) -> Error {
        let kind = match &cause {
            ParquetError::External(inner) => kind_of_foreign(inner.as_ref(), ErrorKind::Transient),
            _ => ErrorKind::Transient,
        };
        let way_out = way_out_of(&cause).map(|way_out| format!(": {way_out}")).unwrap_or_default();
        Error::new(kind, format!("writing {}{way_out}", self.key)).with_source(cause)
    }
}

fn properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        // Row groups are closed by bytes.
        .set_max_row_group_row_count(None);
    for unique in ["note_id", "text_hash", "text"] {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(unique), false);
    }
    properties.build()
}

/// Hashes what it passes on, so that the file need not be read back.
struct HashingWriter {
    sink: BufWriter,
    hasher: FileHasher,
}

impl AsyncFileWriter for HashingWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            self.hasher.add(&bytes);
            self.sink.put(bytes).await.map_err(|e| ParquetError::External(e.into()))
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            let done = self.sink.shutdown().await;
            done.map_err(|e| ParquetError::External(e.into()))
        }
        .boxed()
    }
}
