//! What a corpus is: its tables, the SQL over them, and how a row becomes text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::StorageOptions;

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
    /// How the tables' object stores are reached, where that is not as the pipeline's `storage` says.
    #[serde(default)]
    pub storage: Option<StorageOptions>,
    /// Memory that DataFusion may use before it spills, in MiB.
    #[serde(default = "default_memory")]
    pub memory_limit_mib: u64,
}

fn default_memory() -> u64 {
    2048
}
