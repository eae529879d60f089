//! Schemas of tables, from all their files and all their rows.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use bytes::{Buf, Bytes};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use object_store::{GetResultPayload, ObjectStoreExt};
use tokio::sync::mpsc;

use super::avro;
use super::file::SourceFile;
use super::frames::OneFrame;
use super::ipc;
use crate::corpus::options::TableFormat;
use crate::corpus::session::{error, redact};
use crate::error::{Error, ErrorKind, Result};
use crate::store::unreadable;

/// Refuses a file that does not begin as its format does. A reader that believes the first bytes of any
/// file to be a length would ask for gigabytes.
async fn check_magic(file: &SourceFile, kind: TableFormat) -> Result<()> {
    let magics: &[&[u8]] = match kind {
        TableFormat::Parquet => &[b"PAR1"],
        // The file format, and the stream format.
        TableFormat::Arrow => &[b"ARROW1", &[0xff; 4]],
        TableFormat::Avro => &[b"Obj\x01"],
        TableFormat::Jsonl | TableFormat::Csv => return Ok(()),
    };
    let wrong = || Error::input(format!("{} is no {kind:?} file", file.url));
    if file.meta.size < 8 {
        return Err(wrong());
    }
    let start = file
        .store
        .get_range(&file.meta.location, 0..8)
        .await
        .map_err(|e| unreadable(file.url.as_str(), &e))?;
    if magics.iter().any(|magic| start.starts_with(magic)) { Ok(()) } else { Err(wrong()) }
}

/// Schema of self-describing files: Parquet, Arrow, Avro.
pub(super) async fn own(
    context: &SessionContext,
    files: &[SourceFile],
    kind: TableFormat,
    format: &Arc<dyn FileFormat>,
) -> Result<SchemaRef> {
    let state = context.state();
    let mut schemas = futures::stream::iter(files.iter().cloned())
        .map(|file| {
            let state = &state;
            async move {
                check_magic(&file, kind).await?;
                match kind {
                    TableFormat::Arrow => ipc::check(&file).await?,
                    TableFormat::Avro => {
                        let plain = FileCompressionType::UNCOMPRESSED;
                        read(&file, plain, |file| avro::walk(BufReader::new(file))).await?;
                    }
                    _ => {}
                }
                let metas = std::slice::from_ref(&file.meta);
                let schema = format.infer_schema(state, &file.store, metas).await;
                let doing = format!("reading {}", file.url);
                match schema.map_err(|e| error(e, &doing)) {
                    Ok(schema) => Ok((file, schema)),
                    // A file that its own reader does not understand is bad input, whoever is blamed.
                    Err(e) if e.kind() == ErrorKind::Internal => {
                        Err(Error::input(e.message().to_owned()))
                    }
                    Err(e) => Err(e),
                }
            }
        })
        .buffered(8);
    let mut merged: Option<Schema> = None;
    while let Some(next) = schemas.next().await {
        let (file, schema) = next?;
        // Metadata may differ from file to file and means nothing here.
        let schema = Schema::new(schema.fields().clone());
        merged = Some(merge(merged, schema, &file, false)?);
    }
    Ok(Arc::new(merged.unwrap_or_else(Schema::empty)))
}

/// Schema of JSON lines.
pub(super) async fn json(
    files: &[SourceFile],
    compression: FileCompressionType,
) -> Result<SchemaRef> {
    let mut merged: Option<Schema> = None;
    for file in files {
        let schema = read(file, compression, |reader| {
            let reader = BufReader::with_capacity(1 << 20, reader);
            let mut lines = Lines::new(reader);
            let inferred = arrow::json::reader::infer_json_schema(&mut lines, None);
            inferred
                .map(|(schema, _)| schema)
                .map_err(|cause| in_line(&cause.to_string(), lines.last()))
        })
        .await?;
        // The order that JSON inference gives is that of a hash map.
        let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        fields.sort_by(|a, b| a.name().cmp(b.name()));
        merged = Some(merge(merged, Schema::new(fields), file, false)?);
    }
    match (merged, files.first()) {
        (Some(schema), Some(first)) if schema.fields().is_empty() => Err(Error::input(format!(
            "table `{}` holds no rows, and so no columns: {} is empty",
            first.table, first.url
        ))),
        (merged, _) => Ok(Arc::new(merged.unwrap_or_else(Schema::empty))),
    }
}

/// What the parser said of a line, with the line's number in the file.
fn in_line(said: &str, line: u64) -> String {
    match said.split_once(" at line 1 column ") {
        Some((said, column)) => format!("{said} at line {line} column {column}"),
        None => said.to_owned(),
    }
}

/// Counts the lines that are taken out of a reader: the parser of JSON lines takes one at a time and calls each line 1.
struct Lines<R> {
    reader: R,
    ended: u64,
    /// Whether something of the next line was taken: the last one may have no end.
    begun: bool,
}

impl<R> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader, ended: 0, begun: false }
    }

    /// The number of the line that was taken last, counted from 1.
    fn last(&self) -> u64 {
        self.ended + u64::from(self.begun)
    }
}

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let mut rest = self.fill_buf()?;
        let count = rest.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Lines<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // What is consumed lies in the buffer still.
        if let Ok(bytes) = self.reader.fill_buf() {
            let taken = &bytes[..count.min(bytes.len())];
            self.ended += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.begun = taken.last().map_or(self.begun, |byte| *byte != b'\n');
        }
        self.reader.consume(count);
    }
}

/// Schema of CSV files. All must have the same columns in the same order, since CSV is read by position.
pub(super) async fn csv(
    files: &[SourceFile],
    compression: FileCompressionType,
    delimiter: u8,
    has_header: bool,
) -> Result<SchemaRef> {
    let mut merged: Option<Schema> = None;
    for file in files {
        let schema = read(file, compression, move |reader| {
            arrow::csv::reader::Format::default()
                .with_header(has_header)
                .with_delimiter(delimiter)
                .infer_schema(reader, None)
                .map(|(schema, _)| schema)
        })
        .await?;
        let names = |s: &Schema| s.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        if let Some(first) = merged.as_ref().filter(|first| names(first) != names(&schema)) {
            return Err(Error::input(format!(
                "{} has the columns [{}], but {} has [{}]; make them two tables and UNION ALL them in corpus.sql",
                file.url,
                names(&schema).join(", "),
                files[0].url,
                names(first).join(", "),
            )));
        }
        merged = Some(merge(merged, schema, file, true)?);
    }
    Ok(Arc::new(merged.unwrap_or_else(Schema::empty)))
}

fn merge(
    merged: Option<Schema>,
    next: Schema,
    file: &SourceFile,
    text_holds_all: bool,
) -> Result<Schema> {
    let Some(merged) = merged else { return Ok(next) };
    let mut fields: Vec<FieldRef> = merged.fields().iter().cloned().collect();
    for field in next.fields() {
        let Some(known) = fields.iter_mut().find(|known| known.name() == field.name()) else {
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            continue;
        };
        let common = match common_type(known.data_type(), field.data_type()) {
            Some(common) => common,
            None if text_holds_all => DataType::Utf8,
            None => {
                return Err(Error::input(format!(
                    "column `{}` is {} in {} but {} in earlier files of table `{}`; make them two tables and CAST in corpus.sql",
                    field.name(),
                    field.data_type(),
                    file.url,
                    known.data_type(),
                    file.table,
                )));
            }
        };
        *known = Arc::new(Field::new(known.name(), common, true));
    }
    Ok(Schema::new(fields))
}

/// A type that holds the values of both.
fn common_type(a: &DataType, b: &DataType) -> Option<DataType> {
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => {
            Some(DataType::Float64)
        }
        (DataType::List(x), DataType::List(y)) => {
            let item = common_type(x.data_type(), y.data_type())?;
            Some(DataType::List(Arc::new(Field::new(x.name(), item, true))))
        }
        (DataType::Struct(x), DataType::Struct(y)) => {
            let mut fields: Vec<FieldRef> = x.iter().cloned().collect();
            for field in y {
                match fields.iter_mut().find(|known| known.name() == field.name()) {
                    None => fields.push(Arc::clone(field)),
                    Some(known) => {
                        let common = common_type(known.data_type(), field.data_type())?;
                        *known = Arc::new(Field::new(known.name(), common, true));
                    }
                }
            }
            Some(DataType::Struct(Fields::from(fields)))
        }
        _ => None,
    }
}

/// Runs a blocking reader over the decompressed bytes of a file, streaming.
async fn read<T, E, F>(file: &SourceFile, compression: FileCompressionType, infer: F) -> Result<T>
where
    T: Send + 'static,
    E: ToString,
    F: FnOnce(Box<dyn Read + Send>) -> std::result::Result<T, E> + Send + 'static,
{
    let failed = |text: String| Error::input(format!("reading {}: {}", file.url, redact(&text)));
    let got =
        file.store.get(&file.meta.location).await.map_err(|e| unreadable(file.url.as_str(), &e))?;
    let (reader, feeder): (Box<dyn Read + Send>, _) = match got.payload {
        GetResultPayload::File(file, _) => (Box::new(file), None),
        GetResultPayload::Stream(mut stream) => {
            let (sender, chunks) = mpsc::channel(4);
            let feeder = tokio::spawn(async move {
                while let Some(chunk) = stream.next().await {
                    if sender.send(chunk).await.is_err() {
                        break;
                    }
                }
            });
            (Box::new(ChunkReader { chunks, rest: Bytes::new() }), Some(feeder))
        }
    };
    let inferred = tokio::task::spawn_blocking(move || {
        let reader: Box<dyn Read + Send> = match compression {
            FileCompressionType::ZSTD => Box::new(OneFrame::new(reader)),
            _ => reader,
        };
        let reader = compression.convert_read(reader).map_err(|e| e.to_string())?;
        infer(reader).map_err(|e| e.to_string())
    })
    .await;
    if let Some(feeder) = feeder {
        feeder.abort();
    }
    inferred.map_err(|e| Error::internal("inferring a schema").with_source(e))?.map_err(failed)
}

/// A blocking reader over an object's stream.
struct ChunkReader {
    chunks: mpsc::Receiver<object_store::Result<Bytes>>,
    rest: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk.map_err(std::io::Error::other)?,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(out.len());
        self.rest.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_have_their_number() {
        for (text, line) in [("{\"a\": 1}\n\n{\"a\": 2}\n{\"a\": \n", 4), ("{\"a\"", 1)] {
            // Less than a line at a time.
            let mut lines = Lines::new(BufReader::with_capacity(3, text.as_bytes()));
            let failed = arrow::json::reader::infer_json_schema(&mut lines, None).unwrap_err();
            assert_eq!(lines.last(), line, "{failed}");
            let said = in_line(&failed.to_string(), lines.last());
            assert!(said.contains(&format!(" at line {line} column ")), "{said}");
        }
    }

    #[test]
    fn common_types() {
        let int = DataType::Int64;
        assert_eq!(common_type(&int, &DataType::Float64), Some(DataType::Float64));
        assert_eq!(common_type(&int, &DataType::Null), Some(int.clone()));
        assert_eq!(common_type(&int, &DataType::Utf8), None);
        let strings = DataType::new_list(DataType::Utf8, true);
        assert_eq!(common_type(&DataType::new_list(DataType::Null, true), &strings), Some(strings));
    }
}
