//! A file as a row: of JSON, whose reader makes columns and batches of it.

use std::borrow::Cow;
use std::io::{BufRead, Read};

use arrow::array::RecordBatch;

use super::fault::Fault;
use super::note::{self, TAGS};
use crate::corpus::options::{ColumnType, TableOptions, TypeRule};
use crate::corpus::source::json;
use crate::corpus::source::text::{BadRow, BadRows, Column, LONGER, Learned, failed};
use crate::error::{Error, Result};

/// What a character of the file may become in JSON.
const ESCAPED: usize = 8;

/// The table's options with what is implied: tags are a list, also where no note has any.
pub(in crate::corpus::source) fn options(table: &TableOptions) -> Cow<'_, TableOptions> {
    let mut table = Cow::Borrowed(table);
    if !table.schema.contains_key(TAGS) {
        table.to_mut().schema.insert(TAGS.to_owned(), ColumnType::Strings);
    }
    table
}

/// Reads the file, which is the `file`th of its table and is at `path` below the table's folder.
///
/// # Errors
/// Input for a file of more than `longest` bytes; what the reader says.
pub(in crate::corpus::source) fn learn(
    reader: impl BufRead,
    path: &str,
    table: &TableOptions,
    file: usize,
    rule: TypeRule,
    longest: usize,
) -> Result<Learned> {
    match row(reader, path, table, longest)? {
        Ok(row) => json::learn(&*row, table, file, rule, longest.saturating_mul(ESCAPED)),
        Err(Fault { line, place, reason }) => {
            let mut learned = Learned { rows: 1, ..Learned::default() };
            learned.bad.add(0, BadRow { line, reason, place: place.to_owned() });
            Ok(learned)
        }
    }
}

/// Reads these columns of a file that [`learn`] has seen.
///
/// # Errors
/// As there; Input where the note is not the one that it saw.
pub(in crate::corpus::source) fn read(
    reader: impl BufRead,
    path: &str,
    table: &TableOptions,
    (columns, bad): (&[Column], &BadRows),
    longest: usize,
    emit: &mut dyn FnMut(RecordBatch) -> Result<bool>,
) -> Result<()> {
    if !bad.rows.is_empty() {
        return Ok(());
    }
    let row = row(reader, path, table, longest)?.map_err(|fault| {
        Error::input(format!(
            "line {}: {} is {}, which it was not when the file was read first; was it written to in the meantime?",
            fault.line, fault.place, fault.reason
        ))
    })?;
    json::read(&*row, columns, bad, longest.saturating_mul(ESCAPED), emit)
}

/// The note as a line of JSON.
fn row(
    reader: impl BufRead,
    path: &str,
    table: &TableOptions,
    longest: usize,
) -> Result<Result<Vec<u8>, Fault>> {
    let mut bytes = Vec::new();
    reader.take(longest as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > longest {
        return Err(Error::input(format!(
            "it has more than {longest} bytes, and is one row; {LONGER}"
        )));
    }
    let parsed = note::text(bytes).and_then(|text| note::note(&text, path, table));
    parsed
        .map(|fields| {
            serde_json::to_vec(&fields)
                .map_err(|e| Error::internal("writing a note as JSON").with_source(e))
        })
        .map_or_else(|fault| Ok(Err(fault)), |json| json.map(Ok))
}
