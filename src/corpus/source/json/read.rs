//! The rows of a file as record batches.

use std::io::BufRead;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;

use super::records::Records;
use crate::corpus::options::ColumnType;
use crate::corpus::source::declared::convert;
use crate::corpus::source::text::{BadRows, Column};
use crate::error::{Error, Result};

/// Rows of a batch, at most.
const ROWS: usize = 2048;

/// Values of a batch, about: rows of many fields come in small batches.
const VALUES: usize = 1 << 20;

/// A batch that has so much text is full.
const BYTES: usize = 8 << 20;

/// Reads these columns of every row but the bad ones, and gives batch after batch to `emit` until that wants no more.
///
/// # Errors
/// Input where a row is none that [`learn`](super::learn()) has seen; what the reader or `emit` says.
pub(in crate::corpus::source) fn read(
    reader: impl BufRead,
    columns: &[Column],
    bad: &BadRows,
    longest_row: usize,
    emit: &mut dyn FnMut(RecordBatch) -> Result<bool>,
) -> Result<()> {
    let mut records = Records::new(reader, longest_row)?;
    let mut batch = Batch::new(columns)?;
    let mut bad = bad.rows.iter().copied().peekable();
    let mut row = 0;
    while let Some(record) = records.next()? {
        if bad.next_if_eq(&row).is_none() {
            batch.add(record.bytes, record.line);
        }
        row += 1;
        if batch.is_full() && !emit(batch.finish()?)? {
            return Ok(());
        }
    }
    if !batch.rows.is_empty() {
        emit(batch.finish()?)?;
    }
    Ok(())
}

/// Rows that are to be one batch.
struct Batch<'a> {
    columns: &'a [Column],
    schema: SchemaRef,
    most: usize,
    text: Vec<u8>,
    /// The line of each row, and where its text ends.
    rows: Vec<(u64, usize)>,
    decoder: Decoder,
}

impl<'a> Batch<'a> {
    fn new(columns: &'a [Column]) -> Result<Self> {
        let schema = |type_of: fn(&Column) -> DataType| {
            let field = |column: &Column| Arc::new(Field::new(&column.name, type_of(column), true));
            Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<FieldRef>>()))
        };
        let decoded = schema(decoded_type);
        let most = (VALUES / decoded.flattened_fields().len().max(1)).clamp(1, ROWS);
        Ok(Self {
            columns,
            schema: schema(|column| column.data_type.clone()),
            most,
            text: Vec::new(),
            rows: Vec::new(),
            decoder: decoder(&decoded, most)?,
        })
    }

    fn add(&mut self, record: &[u8], line: u64) {
        if !self.columns.is_empty() {
            self.text.extend_from_slice(record);
            self.text.push(b'\n');
        }
        self.rows.push((line, self.text.len()));
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.most || self.text.len() >= BYTES
    }

    /// The rows as a batch.
    fn finish(&mut self) -> Result<RecordBatch> {
        let arrays = if self.columns.is_empty() { Vec::new() } else { self.arrays()? };
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|e| Error::internal("making a batch").with_source(e))?;
        self.text.clear();
        self.rows.clear();
        Ok(batch)
    }

    fn arrays(&mut self) -> Result<Vec<ArrayRef>> {
        let decoded = self.decoder.decode(&self.text).and_then(|_| self.decoder.flush());
        let rows = self.rows.len();
        let Some(batch) = decoded.ok().flatten().filter(|batch| batch.num_rows() == rows) else {
            return Err(self.misfit());
        };
        let convert = |(array, column): (&ArrayRef, &Column)| match array.as_string_opt::<i32>() {
            Some(texts) if is_converted(column) => {
                convert(texts.clone(), column.declared.as_ref(), &column.data_type)
                    .map_err(|row| not_of_type(self.rows[row].0, column))
            }
            _ => Ok(Arc::clone(array)),
        };
        batch.columns().iter().zip(self.columns).map(convert).collect()
    }

    /// The error of rows that cannot be decoded. What the decoder says of them would repeat their text.
    fn misfit(&self) -> Error {
        let mut begin = 0;
        for (line, end) in &self.rows {
            let row = &self.text[begin..*end];
            let misfit = |column: &&Column| decode_alone(row, column).is_none();
            if let Some(column) = self.columns.iter().find(misfit) {
                return not_of_type(*line, column);
            }
            begin = *end;
        }
        let line = self.rows.first().map_or(1, |(line, _)| *line);
        Error::input(format!(
            "some of the {} rows from line {line} on cannot be read",
            self.rows.len()
        ))
    }
}

/// Whether the values of a column come as text first.
fn is_converted(column: &Column) -> bool {
    !matches!(column.declared, None | Some(ColumnType::String | ColumnType::Strings))
}

/// What the decoder makes of a column.
fn decoded_type(column: &Column) -> DataType {
    if is_converted(column) { DataType::Utf8 } else { column.data_type.clone() }
}

fn decoder(schema: &SchemaRef, rows: usize) -> Result<Decoder> {
    ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(rows)
        // Numbers in columns of text keep their digits.
        .with_coerce_primitive(true)
        .build_decoder()
        .map_err(|e| Error::internal("making a reader of JSON").with_source(e))
}

/// One column of one row.
fn decode_alone(row: &[u8], column: &Column) -> Option<RecordBatch> {
    let field = Field::new(&column.name, decoded_type(column), true);
    let mut decoder = decoder(&Arc::new(Schema::new(vec![field])), 1).ok()?;
    decoder.decode(row).ok()?;
    decoder.flush().ok()?
}

fn not_of_type(line: u64, column: &Column) -> Error {
    let kind = match (&column.declared, &column.data_type) {
        (Some(declared), _) => declared.value().to_owned(),
        (None, found) => format!("a value of its type ({found})"),
    };
    Error::input(format!(
        "line {line}: field `{}` is not {kind}, which it was when the file was read first; was it written to in the meantime?",
        column.name
    ))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::super::learn;
    use super::*;
    use crate::corpus::options::{TableOptions, TypeRule};
    use crate::corpus::source::types::Seen;

    /// Columns by their types, as a table of the file would have them.
    fn columns(text: &str, table: &TableOptions, rule: TypeRule) -> (Vec<Column>, BadRows) {
        let learned = learn(text.as_bytes(), table, 0, rule, 1 << 26).unwrap();
        let column = |(name, seen): (String, Seen)| {
            let declared = table.schema.get(&name).cloned();
            let data_type = match &declared {
                Some(declared) => declared.data_type(),
                None => seen.json_type(rule, &name).unwrap(),
            };
            Column { name, data_type, declared }
        };
        (learned.columns.into_iter().map(column).collect(), learned.bad)
    }

    fn batches(text: &str, columns: &[Column], bad: &BadRows) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        let mut emit = |batch| {
            batches.push(batch);
            Ok(true)
        };
        read(text.as_bytes(), columns, bad, 1 << 26, &mut emit).unwrap();
        batches
    }

    fn shown(text: &str, table: &TableOptions, rule: TypeRule) -> Vec<String> {
        let (columns, bad) = columns(text, table, rule);
        let options = FormatOptions::new().with_null("-");
        let mut shown = Vec::new();
        for batch in batches(text, &columns, &bad) {
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter().map(|array| {
                    ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string()
                });
                shown.push(values.collect::<Vec<_>>().join(" "));
            }
        }
        shown
    }

    #[test]
    fn text_keeps_the_digits_of_the_file() {
        let text = concat!(
            r#"{"a": 12345678901234567890, "b": [1.10, 1e5], "c": {"d": -0}, "e": "007"}"#,
            r#"{"a": 7, "b": null, "c": {"d": 0.10}, "e": "\ud83d\ude00\n"}"#,
        );
        let shown = shown(text, &TableOptions::new("t", "t"), TypeRule::Exact);
        assert_eq!(shown, ["12345678901234567890 [1.10, 1e5] {d: -0} 007", "7 - {d: 0.10} 😀\n"]);
    }

    #[test]
    fn declared_columns_are_converted() {
        let mut table = TableOptions::new("t", "t");
        for (name, declared) in [
            ("b", ColumnType::Boolean),
            ("i", ColumnType::Integer),
            ("l", ColumnType::Strings),
            ("s", ColumnType::String),
            ("t", ColumnType::Timestamp),
        ] {
            table.schema.insert(name.into(), declared);
        }
        let text = concat!(
            r#"{"b": 1, "i": "7", "l": [1.10, "x"], "s": 1.10, "t": "2024-10-01T02:00:00+02:00"}"#,
            r#"{"b": true, "i": 1.5}"#,
            r#"{"b": false, "i": null, "l": null, "s": true}"#,
        );
        assert_eq!(
            shown(text, &table, TypeRule::Guessed),
            ["true 7 [1.10, x] 1.10 2024-10-01T00:00:00", "false - - true -"]
        );
    }

    #[test]
    fn bad_rows_and_other_columns_are_passed_over() {
        let text = "{\"a\": 1, \"b\": [{}]}\nx\n{\"a\": 2}\n{\"a\": \n{\"b\": [], \"a\": 3}\n";
        let (all, bad) = columns(text, &TableOptions::new("t", "t"), TypeRule::Exact);
        let only_a = batches(text, &all[..1], &bad);
        let expected = Int64Array::from(vec![1, 2, 3]);
        assert_eq!(only_a[0].column(0).as_primitive::<Int64Type>(), &expected);
        let none = batches(text, &[], &bad);
        assert_eq!((none[0].num_columns(), none[0].num_rows()), (0, 3));
    }

    #[test]
    fn batches_end_by_rows_and_by_text_and_when_no_more_are_wanted() {
        let text = "{\"a\": 1}\n".repeat(ROWS + 1);
        let (all, bad) = columns(&text, &TableOptions::new("t", "t"), TypeRule::Exact);
        let rows = |batches: &[RecordBatch]| -> Vec<usize> {
            batches.iter().map(RecordBatch::num_rows).collect()
        };
        assert_eq!(rows(&batches(&text, &all, &bad)), [ROWS, 1]);
        assert_eq!(rows(&batches(&text, &[], &bad)), [ROWS, 1]);
        let mut calls = 0;
        let mut emit = |_| {
            calls += 1;
            Ok(false)
        };
        read(text.as_bytes(), &all, &bad, 1 << 26, &mut emit).unwrap();
        assert_eq!(calls, 1);
        let text = format!("{{\"a\": \"{}\"}}\n", "x".repeat(BYTES / 2)).repeat(3);
        let (all, bad) = columns(&text, &TableOptions::new("t", "t"), TypeRule::Exact);
        assert_eq!(rows(&batches(&text, &all, &bad)), [2, 1]);
    }

    #[test]
    fn a_file_that_changed_is_an_error_with_line_and_field_but_no_text() {
        let before = "{\"a\": 1, \"b\": \"2024-10-01\"}\n".repeat(2);
        let mut table = TableOptions::new("t", "t");
        table.schema.insert("b".into(), ColumnType::Date);
        let (all, bad) = columns(&before, &table, TypeRule::Exact);
        for (row, field) in [
            ("{\"a\": \"secret\"}", "a"),
            ("{\"a\": [\"secret\"]}", "a"),
            ("{\"b\": \"secret\"}", "b"),
            ("{\"b\": {\"secret\": 1}}", "b"),
            ("secret", "a"),
        ] {
            let after = format!("{{\"a\": 1}}\n{row}\n");
            let failed =
                read(after.as_bytes(), &all, &bad, 1 << 26, &mut |_| Ok(true)).unwrap_err();
            let shown = format!("{failed:?}");
            assert!(shown.contains(&format!("line 2: field `{field}` is not")), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn what_the_first_pass_takes_for_a_string_the_decoder_does() {
        let escapes = r#""\u0000\u001f\"\\\/\b\f\n\r\t\uD834\uDD1E\uFFFF""#;
        let text = format!("{{\"a\": {escapes}, \"\\u00e9\": 1}}\n");
        let (all, bad) = columns(&text, &TableOptions::new("t", "t"), TypeRule::Exact);
        let batch = &batches(&text, &all, &bad)[0];
        let expected: String = serde_json::from_str(escapes).unwrap();
        assert_eq!(batch.column(0).as_string::<i32>(), &StringArray::from(vec![expected]));
        assert_eq!(batch.schema().field(1).name(), "é");
        assert!(batch.column(1).is_valid(0));
    }
}
