//! A later pass over a CSV file: rows as record batches.

use std::io::Read;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::super::declared::convert;
use super::super::text::{BadRows, Column};
use super::dialect::Dialect;
use super::header;
use super::tokens::{Record, Tokens};
use crate::corpus::names::{called, shown};
use crate::corpus::options::TableOptions;
use crate::error::{Error, Result};

/// A batch is given out once it holds this many bytes of text: an array must stay below 2 GiB, and a row is below 1.
const BATCH_BYTES: usize = 8 << 20;

/// Reads a file: `columns` by their places in it, without the rows in `bad`. Stops where `emit` returns false.
///
/// # Errors
/// Those of `emit`; a value that is not of its column's type; a file that is not what it was in the first pass.
pub(in crate::corpus::source) fn read<R: Read>(
    reader: R,
    dialect: Dialect,
    table: &TableOptions,
    columns: &[(usize, Column)],
    bad: &BadRows,
    batch_rows: usize,
    emit: &mut dyn FnMut(RecordBatch) -> Result<bool>,
) -> Result<()> {
    // What a stricter reader would refuse the first pass refused.
    let mut tokens = Tokens::new(reader, dialect, false);
    tokens.skip_lines(table.skip_rows)?;
    let mut batch = Batch::new(columns, table);
    let mut bad = bad.rows.iter().copied().peekable();
    let Some(first) = tokens.next()? else {
        return Err(header::missing(tokens.is_empty(), table));
    };
    let width = first.len;
    let mut row = 0;
    if !table.has_header {
        row = 1;
        if bad.next_if_eq(&0).is_none() {
            batch.push(&first)?;
        }
    }
    tokens.keep(width);
    loop {
        let full = batch.lines.len() >= batch_rows.max(1) || batch.bytes >= BATCH_BYTES;
        if full && !emit(batch.finish()?)? {
            return Ok(());
        }
        let Some(record) = tokens.next()? else { break };
        if bad.next_if_eq(&row).is_none() {
            if record.len != width {
                return Err(changed(record.line));
            }
            batch.push(&record)?;
        }
        row += 1;
    }
    if !batch.lines.is_empty() {
        emit(batch.finish()?)?;
    }
    Ok(())
}

fn changed(line: u64) -> Error {
    Error::input(format!(
        "line {line} is not what it was a moment before; run again once nobody writes to the file"
    ))
}

/// The rows of a batch.
struct Batch<'a> {
    columns: &'a [(usize, Column)],
    null: Option<&'a [u8]>,
    schema: SchemaRef,
    texts: Vec<StringBuilder>,
    /// Where each row begins in the file.
    lines: Vec<u64>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    fn new(columns: &'a [(usize, Column)], table: &'a TableOptions) -> Self {
        let field = |(_, column): &(usize, Column)| {
            Field::new(&column.name, column.data_type.clone(), true)
        };
        Self {
            columns,
            null: table.null.as_deref().map(str::as_bytes),
            schema: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
            texts: columns.iter().map(|_| StringBuilder::new()).collect(),
            lines: Vec::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, record: &Record<'_>) -> Result<()> {
        for ((at, _), texts) in self.columns.iter().zip(&mut self.texts) {
            if record.is_null(*at, self.null) {
                texts.append_null();
                continue;
            }
            let text = record.text(*at);
            texts.append_value(str::from_utf8(text).map_err(|_| changed(record.line))?);
            self.bytes += text.len();
        }
        self.lines.push(record.line);
        Ok(())
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let fits = shown(self.columns.iter().map(|(_, column)| column.name.as_str()));
        let mut arrays = Vec::with_capacity(self.columns.len());
        for ((at, column), texts) in self.columns.iter().zip(&mut self.texts) {
            let converted = convert(texts.finish(), column.declared.as_ref(), &column.data_type);
            arrays.push(converted.map_err(|row| {
                let line = self.lines.get(row).copied().unwrap_or_default();
                Error::input(format!(
                    "line {line}: {}: not a value of {}, the type that the column's other values have; declare the column's type in the table's `schema`, e.g. as \"string\"",
                    called(&column.name, *at, fits),
                    column.data_type
                ))
            })?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.lines.len()));
        self.lines.clear();
        self.bytes = 0;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|e| Error::internal("making a batch of a CSV file").with_source(e))
    }
}
