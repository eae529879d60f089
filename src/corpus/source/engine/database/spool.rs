//! Rows of a statement, written down as they come: their database is through with them at once, whatever becomes of them.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::corpus::session::BATCH_ROWS;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of text that are gathered before they are written.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes of a row group, which a reader reads a batch of at a time.
const GROUP_BYTES: usize = 64 << 20;

/// A file of rows that is gone when it is closed.
pub(super) struct Spool {
    /// The table, for messages.
    name: String,
    schema: SchemaRef,
    texts: Vec<StringBuilder>,
    rows: usize,
    bytes: usize,
    /// The first text of the first row: a count, where no column is asked for.
    first: Option<String>,
    /// None where no column is asked for.
    writer: Option<ArrowWriter<File>>,
    file: File,
}

impl Spool {
    /// An empty one for the columns of `schema`.
    pub(super) fn new(name: String, schema: &SchemaRef) -> Result<Self> {
        let failed = |e| Error::io(e, "a temporary file for a table's rows");
        let file = tempfile::tempfile().map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .build();
        let writer = match schema.fields().is_empty() {
            true => None,
            false => {
                let copy = file.try_clone().map_err(failed)?;
                let writer = ArrowWriter::try_new(copy, Arc::clone(schema), Some(properties));
                Some(writer.map_err(|e| unwritten(&name).with_source(e))?)
            }
        };
        let texts = schema.fields().iter().map(|_| StringBuilder::new()).collect();
        let (schema, first) = (Arc::clone(schema), None);
        Ok(Self { name, schema, texts, rows: 0, bytes: 0, first, writer, file })
    }

    /// The table, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A text of the table.
    pub(super) fn text<'a>(&self, bytes: &'a [u8]) -> Result<&'a str> {
        let wrong = |_| Error::input(format!("{}: a text is not UTF-8; correct it", self.name));
        std::str::from_utf8(bytes).map_err(wrong)
    }

    /// Adds a row: the text of each column.
    pub(super) fn push<'a>(&mut self, row: impl Iterator<Item = Option<&'a str>>) -> Result<()> {
        let mut row = row.peekable();
        if self.texts.is_empty() {
            self.first = row.next().flatten().map(str::to_owned);
            return Ok(());
        }
        for (column, text) in self.texts.iter_mut().zip(row) {
            self.bytes += text.map_or(0, str::len);
            column.append_option(text);
        }
        self.rows += 1;
        if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        (self.rows, self.bytes) = (0, 0);
        let typed = |(at, texts): (usize, &mut StringBuilder)| {
            let field = self.schema.field(at);
            // Without the value, which may be a text of a note.
            let misfit = || {
                Error::input(format!(
                    "{}: column `{}` has a value that is not of its type, {}; correct it there, or leave out its row or the \
                     column",
                    self.name,
                    field.name(),
                    field.data_type()
                ))
            };
            of_type(texts.finish(), field.data_type()).ok_or_else(misfit)
        };
        let columns: Result<Vec<ArrayRef>> = self.texts.iter_mut().enumerate().map(typed).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns?)
            .map_err(|e| Error::internal("rows of a database").with_source(e))?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.write(&batch).map_err(|e| unwritten(&self.name).with_source(e))
    }

    /// The one number that a statement without columns gave.
    pub(super) fn count(&self) -> Result<usize> {
        let count = self.first.as_deref().and_then(|text| text.parse().ok());
        count.ok_or_else(|| Error::internal(format!("{} did not count its rows", self.name)))
    }

    /// Hands on the rows, until nobody wants more.
    pub(super) fn read(mut self, emit: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        self.flush()?;
        if let Some(writer) = self.writer.take() {
            writer.close().map_err(|e| unwritten(&self.name).with_source(e))?;
        }
        let reader = ParquetRecordBatchReaderBuilder::try_new(self.file)
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build());
        let reader = reader.map_err(|e| Error::internal("the rows of a table").with_source(e))?;
        for batch in reader {
            let batch = batch.map_err(|e| Error::internal("the rows of a table").with_source(e))?;
            if !emit(batch)? {
                break;
            }
        }
        Ok(())
    }
}

fn unwritten(name: &str) -> Error {
    Error::new(
        ErrorKind::Resource,
        format!(
            "the rows of {name} cannot be written to a temporary file; free disk space, or set TMPDIR"
        ),
    )
}

/// Texts as values of a type; `None` where one is not.
fn of_type(texts: StringArray, data_type: &DataType) -> Option<ArrayRef> {
    match data_type {
        DataType::Utf8 => Some(Arc::new(texts)),
        DataType::List(field) => {
            let mut lists = ListBuilder::new(StringBuilder::new()).with_field(Arc::clone(field));
            for text in &texts {
                let list: Option<Vec<Option<String>>> =
                    text.map(serde_json::from_str).transpose().ok()?;
                lists.append_option(list);
            }
            Some(Arc::new(lists.finish()))
        }
        _ => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(&texts, data_type, &strict).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Decimal128Type, Field, Schema, TimestampMicrosecondType};

    use super::super::driver::time;
    use super::*;

    #[test]
    fn texts_become_values() {
        let of = |texts: &[Option<&str>], data_type: &DataType| {
            of_type(StringArray::from(texts.to_vec()), data_type)
        };
        let booleans = of(&[Some("t"), Some("f"), Some("1"), Some("0"), None], &DataType::Boolean);
        let read: Vec<_> = booleans.unwrap().as_boolean().iter().collect();
        assert_eq!(read, [Some(true), Some(false), Some(true), Some(false), None]);
        for (text, zoned) in [
            ("2024-10-01 12:00:00.25+00", true),
            ("2024-10-01 12:00:00.25", true),
            ("2024-10-01 12:00:00.250000", false),
        ] {
            let at = of(&[Some(text)], &time(zoned)).unwrap();
            let at = at.as_primitive::<TimestampMicrosecondType>().value(0);
            assert_eq!(at, 1_727_784_000_250_000, "{text}");
        }
        let decimal = of(&[Some("12.50")], &DataType::Decimal128(10, 2)).unwrap();
        assert_eq!(decimal.as_primitive::<Decimal128Type>().value(0), 1250);
        let strings = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        let lists = of(&[Some(r#"["a", null]"#), None], &strings).unwrap();
        assert_eq!(lists.as_list::<i32>().value(0).as_string::<i32>().value(0), "a");
        assert!(of(&[Some("1"), Some("x")], &DataType::Int64).is_none());
        assert!(of(&[Some("0000-00-00")], &DataType::Date32).is_none());
    }

    #[test]
    fn rows_come_back_in_order() {
        let fields =
            vec![Field::new("id", DataType::Int64, true), Field::new("body", DataType::Utf8, true)];
        let schema = Arc::new(Schema::new(fields));
        let mut spool = Spool::new("notes".to_owned(), &schema).unwrap();
        for id in 0..5000 {
            let (id, body) = (id.to_string(), format!("note {id}"));
            spool
                .push(
                    [Some(id.as_str()), Some(&body).filter(|_| id != "7").map(String::as_str)]
                        .into_iter(),
                )
                .unwrap();
        }
        let (mut rows, mut empty) = (0, 0);
        let mut emit = |batch: RecordBatch| {
            rows += batch.num_rows();
            empty += batch.column(1).null_count();
            Ok(true)
        };
        spool.read(&mut emit).unwrap();
        assert_eq!((rows, empty), (5000, 1));
        let mut spool = Spool::new("notes".to_owned(), &schema).unwrap();
        spool.push([Some("secret"), None].into_iter()).unwrap();
        let error = spool.read(&mut |_| Ok(true)).unwrap_err().to_string();
        assert!(error.contains("column `id`") && !error.contains("secret"), "{error}");
    }
}
