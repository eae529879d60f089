//! Schemas of files that describe themselves: Parquet, Arrow, Avro.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use object_store::ObjectStoreExt;

use super::unify::merge;
use super::{avro, ipc};
use crate::corpus::options::{TableFormat, TypeRule};
use crate::corpus::session::error;
use crate::corpus::source::bytes;
use crate::corpus::source::file::SourceFile;
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
        TableFormat::Jsonl | TableFormat::Csv | TableFormat::Markdown => return Ok(()),
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
    match magics.iter().any(|magic| start.starts_with(magic)) {
        true => Ok(()),
        false if start.starts_with(b"FEA1") => Err(Error::unsupported(format!(
            "{} is Feather of version 1; write it as version 2, which is Arrow, or as Parquet",
            file.url
        ))),
        false => Err(wrong()),
    }
}

/// The names of a Parquet file's columns as it has them. Its footer is in the cache: the schema was read before.
async fn parquet_columns(
    file: &SourceFile,
    state: &SessionState,
) -> datafusion::error::Result<Vec<String>> {
    let cache = state.runtime_env().cache_manager.get_file_metadata_cache();
    let footer = DFParquetMetadata::new(file.store.as_ref(), &file.meta)
        .with_file_metadata_cache(Some(cache))
        .fetch_metadata()
        .await?;
    let columns = footer.file_metadata().schema_descr().root_schema().get_fields();
    Ok(columns.iter().map(|column| column.name().to_owned()).collect())
}

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

/// Schema of self-describing files (Parquet, Arrow, Avro), and that of each.
pub(in crate::corpus::source) async fn own(
    context: &SessionContext,
    files: &[SourceFile],
    kind: TableFormat,
    format: &Arc<dyn FileFormat>,
    rule: TypeRule,
) -> Result<(Schema, Vec<Described>)> {
    let state = context.state();
    let mut schemas = futures::stream::iter(files.iter().cloned())
        .map(|file| {
            let state = &state;
            async move {
                check_magic(&file, kind).await?;
                let (mut is_stream, mut columns) = (false, Vec::new());
                match kind {
                    TableFormat::Arrow => {
                        ipc::Checked { is_stream, columns } = ipc::check(&file).await?;
                    }
                    TableFormat::Avro => {
                        let plain = FileCompressionType::UNCOMPRESSED;
                        let walk = |reader| avro::walk(reader).map_err(Error::input);
                        bytes::read_raw(&file, plain, walk).await?;
                    }
                    _ => {}
                }
                let metas = std::slice::from_ref(&file.meta);
                let schema = format.infer_schema(state, &file.store, metas).await;
                let doing = format!("reading {}", file.url);
                if schema.is_ok() && kind == TableFormat::Parquet {
                    columns = parquet_columns(&file, state).await.map_err(|e| error(e, &doing))?;
                }
                refuse_twins(&file, &columns)?;
                match schema.map_err(|e| error(e, &doing)) {
                    Ok(schema) => Ok((file, schema, is_stream)),
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
    let mut each: Vec<Described> = Vec::new();
    while let Some(next) = schemas.next().await {
        let (file, schema, is_stream) = next?;
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
    Ok((merged, each))
}
