//! What the readers of text files (CSV, JSON lines) have in common: a first pass learns the columns and finds the rows
//! that cannot be read, every later pass skips just those.

use std::collections::BTreeSet;
use std::io;

use arrow::datatypes::DataType;

use super::types::Seen;
use crate::corpus::options::ColumnType;
use crate::error::{Error, ErrorKind, kind_of_io};

/// What a row with other bytes than UTF-8 is counted under.
pub(super) const NOT_UTF8: &str = "not UTF-8";
/// What a row with a value that its column's declaration does not hold is counted under.
pub(super) const NOT_DECLARED: &str = "not of the declared type";

/// The way out for a row that is too long.
pub(super) const LONGER: &str = "a row may take a 32nd of the memory limit; where rows are meant to be that long raise corpus.memory_limit_mib";

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRow {
    /// Line of the file that it begins in, from 1.
    pub(super) line: u64,
    /// What it is counted under, e.g. `not UTF-8`.
    pub(super) reason: &'static str,
    /// The place in the row, without its text: ``column `body` ``.
    pub(super) place: String,
}

/// Details are kept of this many rows.
const DETAILS: usize = 20;

/// The rows of a file that cannot be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BadRows {
    /// Their numbers among the file's rows, from 0.
    pub(super) rows: BTreeSet<u64>,
    /// Reason and count.
    pub(super) reasons: std::collections::BTreeMap<&'static str, u64>,
    /// The first ones.
    pub(super) first: Vec<BadRow>,
}

impl BadRows {
    /// Adds a row; `row` counts from 0.
    pub(super) fn add(&mut self, row: u64, bad: BadRow) {
        self.rows.insert(row);
        *self.reasons.entry(bad.reason).or_default() += 1;
        if self.first.len() < DETAILS {
            self.first.push(bad);
        }
    }
}

/// The result of the first pass over a file.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// Columns with the values seen: CSV in the file's order, JSON lines by name.
    pub(super) columns: Vec<(String, Seen)>,
    /// Rows, with those that cannot be read.
    pub(super) rows: u64,
    /// Rows that cannot be read.
    pub(super) bad: BadRows,
    /// JSON: there is not even a blank in the file.
    pub(super) is_empty: bool,
    /// The reader stopped before the end of the file.
    pub(super) is_cut: bool,
}

/// A column as it is read.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// Its name in the file.
    pub(super) name: String,
    /// Its type in the table.
    pub(super) data_type: DataType,
    /// The declaration that it is read by; else as the values seen make it.
    pub(super) declared: Option<ColumnType>,
}

/// What it means that a file's bytes could not be read.
pub(super) fn failed(cause: io::Error) -> Error {
    let kind = match kind_of_io(&cause) {
        ErrorKind::Corrupt | ErrorKind::NotFound => ErrorKind::Input,
        other => other,
    };
    Error::new(kind, cause.to_string()).with_source(cause)
}
