//! What `prepare` wrote, read and rejected.

use std::collections::BTreeMap;
use std::fmt;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::options::CorpusMode;
use crate::observe::format::{count, counted};
use crate::types::{Digest256, NoteId, TextHash};

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
    /// Up to 20 samples in shard and note order, e.g. `note i:42: no text`.
    pub samples: Vec<String>,
}

impl Rejections {
    /// All rejected rows.
    pub fn total(&self) -> u64 {
        self.by_reason.values().sum()
    }

    /// Counts one rejected row; `note` is the tagged id, if the row has one.
    pub(super) fn add(&mut self, reason: &str, note: Option<&dyn fmt::Display>) {
        *self.by_reason.entry(reason.to_owned()).or_default() += 1;
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(match note {
                Some(id) => format!("note {}: {reason}", shortened(&id.to_string())),
                None => reason.to_owned(),
            });
        }
    }

    /// Counts rows that no reader could make sense of; `samples` says where the first of them are.
    pub(super) fn add_rows(
        &mut self,
        reasons: &BTreeMap<&'static str, u64>,
        samples: impl Iterator<Item = String>,
    ) {
        for (reason, count) in reasons {
            *self.by_reason.entry((*reason).to_owned()).or_default() += count;
        }
        self.samples.extend(samples);
        self.samples.truncate(MAX_SAMPLES);
    }

    /// Says of a reason's rows where the first of them are.
    pub(super) fn name(&mut self, reason: &str, samples: Vec<String>) {
        if !samples.is_empty() {
            self.samples.retain(|sample| sample != reason);
            self.samples.splice(..0, samples);
            self.samples.truncate(MAX_SAMPLES);
        }
    }

    /// Adds what was rejected further on.
    pub(super) fn merge(&mut self, later: Self) {
        for (reason, count) in later.by_reason {
            *self.by_reason.entry(reason).or_default() += count;
        }
        self.samples.extend(later.samples);
        self.samples.truncate(MAX_SAMPLES);
    }
}

const MAX_SAMPLES: usize = 20;

/// An id as messages show it: one of any length must not flood them.
pub(crate) fn shortened(id: &str) -> String {
    const LIMIT: usize = 80;
    match id.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &id[..end]),
        None => id.to_owned(),
    }
}

/// An input file as it was when read; it must not change while read. Or a table of Delta Lake or of a database, which
/// has `read`.
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
    /// Last modification, RFC 3339; of a database's table, when its reading began.
    pub modified: String,
    /// Version of a Delta table: all of the run reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// How a table was read that an engine of its own reads, and what makes its rows those of one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
}

/// Where in the history of a table its rows were read, so that a later run reads what changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// The table's address.
    pub uri: String,
    /// The Delta table's own id: another table at the same address has another one. Of a database's table the column that
    /// says when a row was written.
    pub id: String,
    /// The version of a Delta table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The highest value of a database's column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

/// What the notes of a snapshot were made of, where `corpus.mode = "delta"` reads a table whose changes can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Feed {
    /// Names how notes are made of rows. Made in another way, all of them have to be made again.
    pub reading: Digest256,
    /// Where the table was read.
    pub at: Position,
}

/// Types of the ids and of the columns read, by which a later run reads the same columns alike. Made with
/// `corpus.types = "exact"` only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceTypes {
    /// By table and column, e.g. `integer`.
    pub tables: BTreeMap<String, BTreeMap<String, String>>,
}

impl SourceTypes {
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

/// What a column's values are called, whatever arrow type holds them. Types of one name print alike.
pub(super) fn class(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Dictionary(_, values) => class(values),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Float64 => "float".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(zone)) => format!("timestamp in {zone}"),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        integer if integer.is_integer() => "integer".to_owned(),
        DataType::List(item) | DataType::LargeList(item) => {
            format!("list of {}", class(item.data_type()))
        }
        other => other.to_string().to_lowercase(),
    }
}

/// The type that a text file's column of this name has.
pub(super) fn of_class(name: &str) -> Option<DataType> {
    Some(match name {
        "string" => DataType::Utf8,
        "boolean" => DataType::Boolean,
        "integer" => DataType::Int64,
        "float" => DataType::Float64,
        _ => return None,
    })
}

/// What `prepare` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrepareOutcome {
    /// One entry per shard, all shards, in order (an empty shard has a file with no rows).
    pub shards: Vec<PreparedShard>,
    /// Rows the SQL returned, and rows of the files that no reader could make sense of.
    pub rows_read: u64,
    /// Rows dropped because a newer row has the same id.
    pub duplicates: u64,
    /// Notes left out because they were purged.
    #[serde(default)]
    pub excluded: u64,
    /// Rejected rows.
    pub rejections: Rejections,
    /// What was read.
    pub inputs: Vec<InputFile>,
    /// The types it was read by.
    #[serde(default, skip_serializing_if = "SourceTypes::is_empty")]
    pub types: SourceTypes,
    /// What absence of a note means, where that is not what `corpus.mode` says: all of a Delta table was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<CorpusMode>,
    /// What a later run may read on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<Feed>,
    /// Rows that the query has now, where only what was written since the newest snapshot was read: if the notes come to
    /// another number, rows were deleted, and all have to be read.
    #[serde(skip)]
    pub notes_now: Option<u64>,
    /// How many tasks read it, or why one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<CorpusReading>,
}

/// How many tasks read a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CorpusReading {
    /// So many, each its share of the files.
    Shares(u32),
    /// One: why it was not several.
    One(String),
}

impl fmt::Display for CorpusReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shares(count) => write!(f, "the corpus is read in {count} shares"),
            Self::One(why) => write!(f, "one task reads the corpus: {why}"),
        }
    }
}

impl PrepareOutcome {
    /// The tables that engines of their own read.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &InputFile> {
        self.inputs.iter().filter(|input| input.read.is_some())
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        format!(
            "prepared {} in {} from {} ({}, {} rejected)",
            counted(self.shards.iter().map(|shard| shard.notes).sum(), "note"),
            counted(self.shards.len() as u64, "shard"),
            counted(self.rows_read, "row"),
            counted(self.duplicates, "duplicate"),
            count(self.rejections.total())
        )
    }
}

/// One row of a prepared shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedRow {
    /// The note.
    pub note_id: NoteId,
    /// Chunk number, 0 first.
    pub chunk: u32,
    /// Hash of the rendered text.
    pub text_hash: TextHash,
    /// Rendered text of the chunk; empty for a deletion, and where it was left out because its vector is stored.
    pub text: String,
    /// Deletes the note (delta mode).
    pub deleted: bool,
}

/// A batch of prepared rows.
#[derive(Debug, Clone)]
pub struct PreparedBatch {
    /// The rows.
    pub rows: Vec<PreparedRow>,
    /// The stored columns of the same rows.
    pub stored: arrow::record_batch::RecordBatch,
}
