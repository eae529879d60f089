//! Reads the note corpus with DataFusion and writes prepared shards.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::observe::Reporter;
use crate::store::Root;
use crate::types::{Cancel, Digest256, NoteId, TextHash};

/// What absence of a note means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CorpusMode {
    /// The query returns the whole corpus: a note that is not in it is deleted.
    #[default]
    Full,
    /// The query returns changes: notes are upserted, `deleted = true` deletes.
    Delta,
}

/// File format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Apache Parquet.
    Parquet,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values, with a header unless `has_header = false`.
    Csv,
    /// Arrow IPC file.
    Arrow,
    /// Apache Avro.
    Avro,
}

/// One table that the SQL may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableOptions {
    /// Name in the SQL.
    pub name: String,
    /// File, directory or glob; a local path or an object-store URI; may end in `.gz` or `.zst`.
    pub uri: String,
    /// Format; by default from the file ending.
    #[serde(default)]
    pub format: Option<TableFormat>,
    /// CSV only: whether the first line names the columns.
    #[serde(default = "yes")]
    pub has_header: bool,
    /// CSV only: the field separator.
    #[serde(default = "comma")]
    pub delimiter: char,
}

fn yes() -> bool {
    true
}

fn comma() -> char {
    ','
}

/// Everything `prepare` needs to know of the corpus. The SQL's output columns are the contract:
/// `note_id` (string or integer), `title`, `body`, `topics` (string or list of strings), `updated_at`
/// (timestamp, date, integer or string), `deleted` (boolean); only `note_id` and one text column are required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorpusOptions {
    /// Tables the SQL may name.
    pub tables: Vec<TableOptions>,
    /// A query whose output columns are the contract.
    pub sql: String,
    /// What absence means.
    #[serde(default)]
    pub mode: CorpusMode,
    /// minijinja template over `title`, `body`, `topics` (a list) and every extra column.
    pub template: String,
    /// Extra output columns stored beside the index, for display and filters.
    #[serde(default)]
    pub stored_columns: Vec<String>,
    /// How many rows may be rejected (null id, no text, invalid UTF-8) before the run stops.
    #[serde(default)]
    pub max_rejected: u64,
    /// Memory that DataFusion may use before it spills, in MiB.
    #[serde(default = "default_memory")]
    pub memory_limit_mib: u64,
}

fn default_memory() -> u64 {
    2048
}

/// Cuts a long rendered text into windows; implemented by the tower's tokenizer.
pub trait Chunker: Send + Sync {
    /// Byte ranges of the chunks of `text`, in order, at least one.
    fn chunks(&self, text: &str) -> Result<Vec<Range<usize>>>;
}

/// What `prepare` is asked to do.
pub struct PrepareRequest<'a> {
    /// The corpus.
    pub options: &'a CorpusOptions,
    /// Directory that relative table paths start from.
    pub base_dir: &'a std::path::Path,
    /// Number of shards; `None` decides from the row count: 1 below `small`, else `default_shards`.
    pub shard_count: Option<u32>,
    /// Shards of a corpus that is not tiny, where `shard_count` is `None`.
    pub default_shards: u32,
    /// Cuts long texts; `None` leaves one chunk a note.
    pub chunker: Option<Arc<dyn Chunker>>,
    /// Where the prepared files go.
    pub root: &'a Root,
    /// Names the folder of the prepared files ([`crate::store::layout::prepared`]).
    pub run: &'a str,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: Cancel,
}

/// One prepared shard file. Rows are sorted by (note_id, chunk).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreparedShard {
    /// Shard number.
    pub shard: u32,
    /// The file.
    pub file: crate::store::FileRef,
    /// Live notes.
    pub notes: u64,
    /// Rows: chunks of live notes plus deletions.
    pub rows: u64,
    /// Rows that delete a note (delta mode only; in full mode deleted notes are left out).
    pub deletions: u64,
    /// Digest over the sorted (note_id, chunk, text_hash, deleted): what "changed" means (decision 5).
    pub content: Digest256,
    /// Digest over the stored columns in the same order.
    pub columns: Digest256,
}

/// Why rows were rejected, with a few samples (ids and reasons, never text).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rejections {
    /// Count per reason, e.g. `no text`.
    pub by_reason: BTreeMap<String, u64>,
    /// Up to 20 samples, e.g. `row 17, note i:42: no text`.
    pub samples: Vec<String>,
}

impl Rejections {
    /// All rejected rows.
    pub fn total(&self) -> u64 {
        self.by_reason.values().sum()
    }
}

/// An input file as it was when read; it must not change while read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputFile {
    /// Table that it belongs to.
    pub table: String,
    /// URI.
    pub uri: String,
    /// Size in bytes.
    pub size: u64,
    /// Entity tag, if the store gives one.
    pub etag: Option<String>,
    /// Last modification, RFC 3339.
    pub modified: String,
}

/// What `prepare` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrepareOutcome {
    /// One entry per shard, all shards, in order (an empty shard has a file with no rows).
    pub shards: Vec<PreparedShard>,
    /// Rows the SQL returned.
    pub rows_read: u64,
    /// Rows dropped because a newer row has the same id.
    pub duplicates: u64,
    /// Rejected rows.
    pub rejections: Rejections,
    /// What was read.
    pub inputs: Vec<InputFile>,
}

/// One row of a prepared shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedRow {
    /// The note.
    pub note_id: NoteId,
    /// Chunk number, 0 first.
    pub chunk: u32,
    /// Hash of `text`.
    pub text_hash: TextHash,
    /// Rendered text of the chunk; empty for a deletion.
    pub text: String,
    /// Deletes the note (delta mode).
    pub deleted: bool,
}

/// Runs the one DataFusion job: read, check the contract, keep the newest of duplicates, render, chunk,
/// hash, shard, write. Streams; spills to disk beyond the memory limit.
///
/// # Errors
/// Config for a bad SQL, a missing column, a wrong type or a bad template; Input for unreadable files, more
/// than `max_rejected` rejections, or inputs that changed while read.
pub async fn prepare(request: PrepareRequest<'_>) -> Result<PrepareOutcome> {
    let _ = request;
    todo!("corpus helper")
}

/// Columns of a prepared file: `note_id` utf8 (tagged), `chunk` uint32, `text_hash` fixed 32, `text` utf8,
/// `deleted` bool, then the stored columns with their own types.
pub fn prepared_schema(stored: &arrow::datatypes::Fields) -> SchemaRef {
    let _ = stored;
    todo!("corpus helper")
}

/// Streams a prepared shard file in order, batch by batch, in memory bounded by one batch.
pub struct PreparedReader {}

impl PreparedReader {
    /// Opens a prepared file.
    pub async fn open(root: &Root, shard: &PreparedShard) -> Result<Self> {
        let _ = (root, shard);
        todo!("corpus helper")
    }

    /// The next batch of rows together with its stored columns; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<PreparedBatch>> {
        todo!("corpus helper")
    }
}

/// A batch of prepared rows.
#[derive(Debug, Clone)]
pub struct PreparedBatch {
    /// The rows.
    pub rows: Vec<PreparedRow>,
    /// The stored columns of the same rows.
    pub stored: arrow::record_batch::RecordBatch,
}
