//! Schemas of files that describe themselves: Parquet, Arrow, Avro.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use object_store::ObjectStoreExt;

use super::refusal::too_large;
use super::unify::merge;
use super::{avro, ipc, parquet};
use crate::corpus::options::{TableFormat, TypeRule};
use crate::corpus::session::{BATCH_ROWS, Depth, error};
use crate::corpus::source::bytes;
use crate::corpus::source::file::SourceFile;
use crate::error::{Error, ErrorKind, Result};
use crate::store::unreadable;

/// Refuses a file that does not begin as its format does. A reader that trusts the first bytes of any
/// file to be a length would ask for gigabytes.
async fn check_magic(file: &SourceFile, kind: TableFormat) -> Result<()> {
    let magics: &[&[u8]] = match kind {
        TableFormat::Parquet => &[b"PAR1"],
        // The file format, and the stream format.
        TableFormat::Arrow => &[b"ARROW1", &[0xff; 4]],
        TableFormat::Avro => &[b"Obj\x01"],
        TableFormat::Jsonl | TableFormat::Csv | TableFormat::Markdown => return Ok(()),
        TableFormat::Delta | TableFormat::Postgres | TableFormat::Mysql | TableFormat::Sqlite => {
            return Err(Error::internal("a table of an engine has no file"));
        }
    };
    let wrong = || Error::input(format!("{} is not a valid {kind:?} file", file.url));
    if file.meta.size < 8 {
        return Err(wrong());
    }
    let start = file
        .store
        .get_range(&file.meta.location, 0..8)
        .await
        .map_err(|e| unreadable(file.url.as_str(), &e))?;
    match magics.iter().any(|magic| start.starts_with(magic)) {
        true => Ok(()),
        false if start.starts_with(b"FEA1") => Err(Error::unsupported(format!(
            "{} is Feather of version 1; write it as version 2, which is Arrow, or as Parquet",
            file.url
        ))),
        false => Err(wrong()),
    }
}

/// The names of a Parquet file's columns as it has them, and the bytes of a row. Its footer is in the cache: the schema
/// was read before.
async fn parquet_columns(
    file: &SourceFile,
    state: &SessionState,
) -> datafusion::error::Result<(Vec<String>, u64)> {
    let cache = state.runtime_env().cache_manager.get_file_metadata_cache();
    let footer = DFParquetMetadata::new(file.store.as_ref(), &file.meta)
        .with_file_metadata_cache(Some(cache))
        .fetch_metadata()
        .await?;
    let columns = footer.file_metadata().schema_descr().root_schema().get_fields();
    let names = columns.iter().map(|column| column.name().to_owned()).collect();
    Ok((names, parquet::row_bytes(&footer)))
}

/// Bytes that a value takes even where it is null.
fn width(of: &DataType) -> u64 {
    let size = |size: &i32| u64::try_from(*size).unwrap_or(0);
    match of {
        DataType::FixedSizeBinary(bytes) => size(bytes),
        DataType::FixedSizeList(item, count) => {
            size(count).saturating_mul(width(item.data_type()).max(1))
        }
        DataType::Struct(fields) => {
            fields.iter().map(|field| width(field.data_type())).fold(0, u64::saturating_add)
        }
        _ => 0,
    }
}

/// Batches of about so small a part of their room: rows differ, and several are held at once.
const PART_OF_ROOM: u64 = 16;

/// DataFusion takes columns of one name for one.
fn refuse_twins(file: &SourceFile, columns: &[String]) -> Result<()> {
    let mut seen = HashSet::new();
    match columns.iter().find(|name| !seen.insert(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::input(format!(
            "{} has two columns named `{name}`, and SQL can only read one; write it with one name for each",
            file.url
        ))),
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::corpus::source) struct Described {
    pub(in crate::corpus::source) schema: SchemaRef,
    /// Arrow: a stream of messages, which another reader reads than a file with a footer.
    pub(in crate::corpus::source) is_stream: bool,
}

impl Described {
    /// So many files whose reader brings the columns of each to this schema.
    pub(in crate::corpus::source) fn alike(schema: &Schema, files: usize) -> Vec<Self> {
        vec![Self { schema: Arc::new(schema.clone()), is_stream: false }; files]
    }
}

/// Schema of self-describing files (Parquet, Arrow, Avro), that of each, and how many rows a batch of `room` bytes may
/// have.
pub(in crate::corpus::source) async fn own(
    context: &SessionContext,
    files: &[SourceFile],
    kind: TableFormat,
    format: &Arc<dyn FileFormat>,
    rule: TypeRule,
    (room, depth): (u64, Depth),
) -> Result<(Schema, Vec<Described>, usize)> {
    let state = context.state();
    let mut schemas = futures::stream::iter(files.iter().cloned())
        .map(|file| {
            let state = &state;
            async move {
                check_magic(&file, kind).await?;
                let (mut is_stream, mut columns) = (false, Vec::new());
                let (mut row_bytes, mut rows) = (0, BATCH_ROWS);
                match kind {
                    TableFormat::Arrow => {
                        ipc::Checked { is_stream, columns } = ipc::check(&file, room).await?;
                    }
                    // Its blocks are looked through from end to end.
                    TableFormat::Avro if depth == Depth::Whole => {
                        let plain = FileCompressionType::UNCOMPRESSED;
                        let walk = move |reader| {
                            avro::walk(reader, room).map_err(|refused| match refused {
                                avro::Refused::Broken(what) => Error::input(what),
                                avro::Refused::Large(bytes) => too_large("a block", bytes),
                            })
                        };
                        rows = bytes::read_raw(&file, plain, walk).await?;
                    }
                    _ => {}
                }
                let metas = std::slice::from_ref(&file.meta);
                let schema = format.infer_schema(state, &file.store, metas).await;
                let doing = format!("reading {}", file.url);
                if schema.is_ok() && kind == TableFormat::Parquet {
                    let footer = parquet_columns(&file, state).await;
                    (columns, row_bytes) = footer.map_err(|e| error(e, &doing))?;
                }
                refuse_twins(&file, &columns)?;
                match schema.map_err(|e| error(e, &doing)) {
                    Ok(schema) => {
                        let widths = schema.fields().iter().map(|field| width(field.data_type()));
                        let width = widths.fold(0, u64::saturating_add);
                        if width > room {
                            return Err(too_large(file.url.as_str(), width));
                        }
                        let row_bytes = width.saturating_add(row_bytes);
                        let fit = usize::try_from(room / PART_OF_ROOM / row_bytes.max(1));
                        let rows = rows.min(fit.unwrap_or(BATCH_ROWS)).max(1);
                        Ok((file, schema, is_stream, rows))
                    }
                    // A file that its own reader does not understand is bad input, whichever of the two is blamed.
                    Err(e) if e.kind() == ErrorKind::Internal => {
                        Err(Error::input(e.message().to_owned()))
                    }
                    Err(e) => Err(e),
                }
            }
        })
        .buffered(8);
    let mut merged: Option<Schema> = None;
    let mut each: Vec<Described> = Vec::new();
    let mut batch_rows = BATCH_ROWS;
    while let Some(next) = schemas.next().await {
        let (file, schema, is_stream, rows) = next?;
        batch_rows = batch_rows.min(rows);
        // Metadata may differ from file to file and means nothing here.
        let schema = Schema::new(schema.fields().clone());
        // Most files have the schema of the one before.
        let known = each.last().map(|last| &last.schema).filter(|last| ***last == schema).cloned();
        let own = known.unwrap_or_else(|| Arc::new(schema.clone()));
        each.push(Described { schema: own, is_stream });
        merged = Some(merge(merged, schema, &file, rule)?);
    }
    let mut merged = merged.unwrap_or_else(Schema::empty);
    if each.iter().any(|own| own.schema != each[0].schema) {
        let fields = merged.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        merged = Schema::new(fields.collect::<Vec<_>>());
    }
    Ok((merged, each, batch_rows))
}
