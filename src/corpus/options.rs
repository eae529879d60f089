//! What a corpus is: its tables, the SQL over them, and how a row becomes text.

use std::collections::BTreeMap;

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
    /// The query returns changes: notes are upserted, `deleted = true` deletes. Of a Delta table with a change data feed, and of
    /// a database's table with `changed_at`, it is the query of all notes: a run reads the rows that changed since the newest
    /// snapshot, or all where that is in doubt.
    Delta,
}

/// How columns of CSV and JSON files get types where `schema` declares none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TypeRule {
    /// What looks like a number is one: `007` is 7, `1.10` is 1.1, and a `2.5` makes every `2` a 2.0. Versions of a
    /// note that cannot be ordered by `updated_at` are compared as text.
    #[default]
    Guessed,
    /// A column has a type only if printing each value gives the file's own text back, else it is text. A type that the
    /// newest snapshot was made with stays; a value that does not fit it is refused, and so are versions of a note
    /// that `updated_at` cannot order.
    Exact,
}

/// A declared type of a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// The text as the file writes it.
    String,
    /// A whole number of 64 bits.
    Integer,
    /// A number of 64 bits, which may have a fraction.
    Float,
    /// `true` or `false`.
    Boolean,
    /// A day: `2024-10-01`.
    Date,
    /// A point in time as ISO 8601 writes it, in microseconds; a zone is applied, no zone is UTC.
    Timestamp,
    /// JSON and Markdown only: a list of strings.
    Strings,
    /// A point in time (or a day) in another format, as strftime writes it: `{ timestamp = "%m/%d/%Y" }`.
    #[serde(untagged)]
    Time(TimeFormat),
}

/// How a column writes points in time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeFormat {
    /// By the rules of strftime, e.g. `%d.%m.%Y %H:%M`.
    pub timestamp: String,
}

/// Encoding of a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TextEncoding {
    /// UTF-8.
    #[serde(rename = "utf-8")]
    Utf8,
    /// UTF-16 with a byte order mark, else little-endian.
    #[serde(rename = "utf-16")]
    Utf16,
    /// UTF-16, little-endian.
    #[serde(rename = "utf-16le")]
    Utf16Le,
    /// UTF-16, big-endian.
    #[serde(rename = "utf-16be")]
    Utf16Be,
    /// ISO 8859-1, read as its superset Windows-1252, as browsers do.
    #[serde(rename = "latin-1")]
    Latin1,
    /// Windows-1252.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

/// File format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Apache Parquet.
    Parquet,
    /// JSON objects: one a line, in a list, or one behind the other.
    Jsonl,
    /// Comma-separated values, with a header unless `has_header = false`.
    Csv,
    /// Arrow IPC file.
    Arrow,
    /// Apache Avro.
    Avro,
    /// Markdown: a file is a note. Only where it is said: a `README.md` beside data is not a table.
    Markdown,
    /// A table of Delta Lake; for builds with the feature `delta`.
    Delta,
    /// A table of PostgreSQL; like the next two, for builds with the feature `databases`.
    Postgres,
    /// A table of MySQL or MariaDB.
    Mysql,
    /// A table of an SQLite file.
    Sqlite,
}

/// One table that the SQL may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableOptions {
    /// Name in the SQL.
    pub name: String,
    /// File, directory or glob, as a local path or an object-store URI, or the address of one file on the web. CSV and
    /// JSON files may end in `.gz` or `.zst`. Of a Delta table its folder; of a database `postgres://host:port/database`,
    /// `mysql://host:port/database`, or the path of an SQLite file.
    pub uri: String,
    /// Format; by default from the file ending.
    #[serde(default)]
    pub format: Option<TableFormat>,
    /// CSV only: whether the first line names the columns.
    #[serde(default = "yes")]
    pub has_header: bool,
    /// CSV only: the field separator; a tab in files that end in `.tsv`.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// CSV only: the character that quoted fields begin and end with, or `none`. By default `"`; in `.tsv` files whose
    /// quotes are not all those of a CSV writer, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// CSV only: a character that takes the next one's meaning away, such as `\\`. Without one a quote in a quoted
    /// field is written twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escape: Option<char>,
    /// CSV only: lines that begin with this character are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<char>,
    /// CSV only: what stands for no value, such as `\\N`. By default an empty field; an empty field of a column that is
    /// not text has no value in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<String>,
    /// CSV only: lines before the header (or the first row) that are passed over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skip_rows: u64,
    /// CSV, JSON and Markdown: how characters are written. By default as the byte order mark says, else UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<TextEncoding>,
    /// Types of columns, by name: `{ version = "string" }`. They hold before a value is read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schema: BTreeMap<String, ColumnType>,
    /// Delta only: the version that is read, by default the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Databases only: the table's name there, such as `notes` or `blog.notes`; by default `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Databases only: the column that says when a row was last written, a time, a date, or a number that grows with every
    /// write. With `mode = "delta"` a run reads the rows that were written since the newest snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<String>,
}

impl TableFormat {
    /// Whether it is a table of a database.
    pub fn is_database(self) -> bool {
        matches!(self, Self::Postgres | Self::Mysql | Self::Sqlite)
    }

    /// Whether only an engine of its own can say which files and rows of it count.
    pub fn has_engine(self) -> bool {
        self == Self::Delta || self.is_database()
    }
}

impl TableOptions {
    /// A table with every other option at its default.
    pub fn new(name: &str, uri: &str) -> Self {
        Self {
            name: name.to_owned(),
            uri: uri.to_owned(),
            format: None,
            has_header: yes(),
            delimiter: comma(),
            quote: None,
            escape: None,
            comment: None,
            null: None,
            skip_rows: 0,
            encoding: None,
            schema: BTreeMap::new(),
            version: None,
            table: None,
            changed_at: None,
        }
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl TableOptions {
    /// `uri` for messages and reports: without credentials, and without the query of a web address, which may be a
    /// signature.
    pub fn shown_uri(&self) -> String {
        let Some((scheme, rest)) = self.uri.split_once("://") else { return self.uri.clone() };
        let is_web = matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https");
        let signed = ["?sig=", "&sig="].iter().any(|part| rest.contains(part));
        let end = match rest.find(['?', '#']) {
            Some(end) if is_web || signed => end,
            _ => rest.len(),
        };
        let rest = &rest[..end];
        let host = rest.split('/').next().unwrap_or_default();
        let secret = match host.rfind('@') {
            Some(at) if !matches!(scheme, "abfs" | "abfss") => at + 1,
            _ => 0,
        };
        format!("{scheme}://{}", &rest[secret..])
    }
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
    /// How columns of CSV and JSON files get types where `schema` declares none.
    #[serde(default)]
    pub types: TypeRule,
    /// What absence means.
    #[serde(default)]
    pub mode: CorpusMode,
    /// minijinja template over `title`, `body`, `topics` (a list) and every extra column.
    pub template: String,
    /// Extra output columns stored beside the index, for display and filters.
    #[serde(default)]
    pub stored_columns: Vec<String>,
    /// How many rows may be rejected (no id, no text, or a row of a text file that cannot be read: broken UTF-8,
    /// another number of fields than the header, no JSON object) before the run stops.
    #[serde(default)]
    pub max_rejected: u64,
    /// How the tables' object stores are reached, where that is not as the pipeline's `storage` says.
    #[serde(default)]
    pub storage: Option<StorageOptions>,
    /// Memory that DataFusion may use before it spills, in MiB. A row of a CSV or JSON file may take a 32nd of it; a
    /// batch, a page, a block, or a buffer of a Parquet, Avro, or Arrow file a quarter.
    #[serde(default = "default_memory")]
    pub memory_limit_mib: u64,
    /// MiB of files that one task reads, where `sql` makes each of its rows of one row of one table of files: so many
    /// cores read and gather the corpus beside each other.
    #[serde(default = "default_share")]
    pub share_mib: u64,
}

fn default_memory() -> u64 {
    2048
}

fn default_share() -> u64 {
    128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (uri, shown) in [
            ("https://host/a b.csv?X-Amz-Signature=s#f", "https://host/a b.csv"),
            ("http://user:pass@host/a?x@y", "http://host/a"),
            ("https://host?x=/a@b", "https://host"),
            ("s3://AKIA:secret@bucket/a?.csv", "s3://bucket/a?.csv"),
            ("az://notes/a?sv=1&sig=s", "az://notes/a"),
            (
                "abfss://notes@account.dfs.core.windows.net/a@b",
                "abfss://notes@account.dfs.core.windows.net/a@b",
            ),
            ("s3://bucket/a?#[b].csv", "s3://bucket/a?#[b].csv"),
            ("notes/?.csv", "notes/?.csv"),
        ] {
            let table = serde_json::json!({"name": "n", "uri": uri});
            let table: TableOptions = serde_json::from_value(table).unwrap();
            assert_eq!(table.shown_uri(), shown);
        }
    }
}
