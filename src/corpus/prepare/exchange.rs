//! Rows between the tasks that read them and those that gather a shard of them.
//!
//! A file of rows is made of bundles, each a Parquet file in itself: rows of one shard, in any order. The task that gathers a shard
//! reads its bundles alone, and checks each by its hash.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{SchemaRef, UInt32Type};
use bytes::Bytes;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use object_store::buffered::BufWriter;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::contract::SHARD;
use crate::corpus::session::own;
use crate::error::{Error, ErrorKind, Result, ResultExt, way_out_of};
use crate::store::receipt::Receipt;
use crate::store::{FileRef, Root, damaged, kind_of_foreign, layout};
use crate::types::{Digest256, Hasher256};

/// Rows that are put into a bundle at once.
const CHUNK_ROWS: usize = 4096;
/// Batches that a reader of bundles may be ahead.
const AHEAD: usize = 2;

/// The rows that one task read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowsFile {
    pub(super) file: FileRef,
    pub(super) bundles: Vec<Bundle>,
}

/// Rows of one shard: a part of a file of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bundle {
    shard: u32,
    start: u64,
    size: u64,
    sha256: Digest256,
}

impl Receipt for RowsFile {
    fn files(&self) -> Vec<&FileRef> {
        vec![&self.file]
    }
}

/// Writes a file of rows, whose name no other attempt has.
pub(super) struct RowsWriter {
    root: Root,
    key: String,
    sink: BufWriter,
    schema: SchemaRef,
    /// Bytes of rows that wait to be bundled, at most, about.
    room: usize,
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    hasher: Hasher256,
    end: u64,
    bundles: Vec<Bundle>,
}

impl RowsWriter {
    pub(super) fn new(root: &Root, run: &str, share: u32, schema: SchemaRef, room: usize) -> Self {
        let key = layout::rows(run, share, &format!("{:016x}", rand::random::<u64>()));
        let (store, path) = root.object(&key);
        Self {
            root: root.clone(),
            key,
            sink: BufWriter::new(store, path),
            schema,
            room,
            waiting: Vec::new(),
            waiting_bytes: 0,
            hasher: Hasher256::new(),
            end: 0,
            bundles: Vec::new(),
        }
    }

    pub(super) async fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec())
            .or_error(ErrorKind::Internal, || "rows of other columns than planned")?;
        self.waiting_bytes += batch.get_array_memory_size();
        self.waiting.push(batch);
        if self.waiting_bytes >= self.room { self.flush().await } else { Ok(()) }
    }

    pub(super) async fn finish(mut self) -> Result<RowsFile> {
        self.flush().await?;
        self.sink.shutdown().await.map_err(|e| failed(&self.key, e))?;
        self.root.sync(&self.key).await?;
        let file = FileRef { path: self.key, size: self.end, sha256: self.hasher.finish() };
        Ok(RowsFile { file, bundles: self.bundles })
    }

    async fn flush(&mut self) -> Result<()> {
        self.waiting_bytes = 0;
        let (schema, batches) = (Arc::clone(&self.schema), std::mem::take(&mut self.waiting));
        let bundling = tokio::task::spawn_blocking(move || bundled(&schema, &batches));
        let bundled = bundling.await.or_error(ErrorKind::Internal, || "bundling rows")?;
        for (shard, bytes) in bundled.or_error(ErrorKind::Internal, || "bundling rows")? {
            let (start, size) = (self.end, bytes.len() as u64);
            self.bundles.push(Bundle { shard, start, size, sha256: Digest256::of(&bytes) });
            self.hasher.raw(&bytes);
            self.end += size;
            self.sink.put(bytes).await.map_err(|e| failed(&self.key, e))?;
        }
        Ok(())
    }
}

fn failed(key: &str, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    let way_out = way_out_of(&cause).map(|way_out| format!(": {way_out}")).unwrap_or_default();
    let kind = kind_of_foreign(&cause, ErrorKind::Transient);
    Error::new(kind, format!("writing {key}{way_out}")).with_source(cause)
}

/// The rows of each shard.
fn bundled(
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> parquet::errors::Result<Vec<(u32, Bytes)>> {
    let mut places: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
    for (at, batch) in batches.iter().enumerate() {
        let shards = batch.column(SHARD).as_primitive::<UInt32Type>();
        for (row, shard) in shards.values().iter().enumerate() {
            places.entry(*shard).or_default().push((at, row));
        }
    }
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    let bundle = |(shard, places): (u32, Vec<(usize, usize)>)| {
        let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties()))?;
        for places in places.chunks(CHUNK_ROWS) {
            writer.write(&interleave_record_batch(&batches, places)?)?;
        }
        Ok((shard, writer.into_inner()?.into()))
    };
    places.into_iter().map(bundle).collect()
}

/// Written once and read once: what costs little time.
fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(None)
        .build()
}

/// The rows of one shard, of all files of rows.
pub(super) struct ShardRows {
    root: Root,
    schema: SchemaRef,
    bundles: Vec<(Arc<str>, Bundle)>,
}

impl ShardRows {
    pub(super) fn of(root: &Root, files: &[RowsFile], shard: u32, schema: &SchemaRef) -> Self {
        let of_file = |RowsFile { file, bundles }: &RowsFile| {
            let key: Arc<str> = file.path.as_str().into();
            let own = bundles.iter().filter(|bundle| bundle.shard == shard);
            own.map(|bundle| (Arc::clone(&key), bundle.clone())).collect::<Vec<_>>()
        };
        let bundles = files.iter().flat_map(of_file).collect();
        Self { root: root.clone(), schema: Arc::clone(schema), bundles }
    }
}

impl fmt::Debug for ShardRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bundles of rows", self.bundles.len())
    }
}

impl PartitionStream for ShardRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), AHEAD);
        let (root, schema, bundles) =
            (self.root.clone(), Arc::clone(&self.schema), self.bundles.clone());
        let (sender, rows) = (builder.tx(), context.session_config().batch_size());
        builder.spawn(async move {
            for (key, bundle) in bundles {
                let bytes = fetched(&root, &key, &bundle).await.map_err(own)?;
                let (sender, schema) = (sender.clone(), Arc::clone(&schema));
                let emit = move |batch| sender.blocking_send(Ok(batch)).is_ok();
                let decoding =
                    tokio::task::spawn_blocking(move || decoded(bytes, rows, &schema, emit));
                let decoded = decoding.await.or_error(ErrorKind::Internal, || "reading rows");
                // Nobody reads on where another task has failed.
                if !decoded.map_err(own)?? {
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }
}

async fn fetched(root: &Root, key: &str, bundle: &Bundle) -> Result<Bytes> {
    let bytes = root.get_range(key, bundle.start..bundle.start + bundle.size).await?;
    if Digest256::of(&bytes) != bundle.sha256 {
        return Err(damaged(root, key, "its rows are not those that were written"));
    }
    Ok(bytes)
}

/// Decodes a bundle, batch by batch, until `emit` wants no more. False where it did not.
fn decoded(
    bytes: Bytes,
    rows: usize,
    schema: &SchemaRef,
    emit: impl Fn(RecordBatch) -> bool,
) -> datafusion::error::Result<bool> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(rows).build()?;
    for batch in reader {
        let batch = RecordBatch::try_new(Arc::clone(schema), batch?.columns().to_vec())?;
        if !emit(batch) {
            return Ok(false);
        }
    }
    Ok(true)
}
