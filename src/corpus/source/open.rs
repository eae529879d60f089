//! Opens the files of a table: their columns, their types, and what stands against them.

use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::avro::AvroFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::SessionContext;

use super::brought::is_text;
use super::engine::Engines;
use super::file::SourceFile;
use super::find::{FileKind, Finder};
use super::learn::{Complaint, Syntax, TextTable, declared_columns_are_there};
use super::own::OwnFiles;
use super::provider::{Files, SourceTable, folder_fields};
use super::reading::{Reading, Typing};
use super::{csv, described};
use crate::corpus::names::toml_key;
use crate::corpus::options::{ColumnType, TableFormat, TableOptions, TypeRule};
use crate::corpus::outcome::{InputFile, class};
use crate::corpus::session::{BATCH_ROWS, error};
use crate::error::{Error, Result};

/// Learns the columns of a table's files.
///
/// # Errors
/// Config for options that do not fit the format; Input for files that cannot be read, or not as one table.
pub(super) async fn open(
    context: &SessionContext,
    options: &TableOptions,
    files: Vec<SourceFile>,
    kind: FileKind,
    reading: &Reading<'_>,
) -> Result<SourceTable> {
    let files: Arc<[SourceFile]> = files.into();
    csv::check_options(options, kind.format)?;
    let syntax = match kind.format {
        TableFormat::Csv => Some(Syntax::Csv { tabs: kind.tabs }),
        TableFormat::Jsonl => Some(Syntax::Json),
        TableFormat::Markdown => Some(Syntax::Markdown),
        _ => None,
    };
    let mut batch_rows = BATCH_ROWS;
    let (own, source, mut complaints) = match syntax {
        Some(syntax) => {
            let typed =
                TextTable::learn(options, syntax, files.clone(), kind.compression, reading).await?;
            let schema = typed.table.schema();
            let files = match typed.table.is_open() {
                true => Files::Open,
                false => Files::Text(Arc::new(typed.table)),
            };
            (schema, files, typed.complaints)
        }
        None => {
            let format: Arc<dyn FileFormat> = match kind.format {
                TableFormat::Arrow => Arc::new(ArrowFormat),
                TableFormat::Avro => Arc::new(AvroFormat),
                _ => {
                    // The format has options of its own, which its schemas are inferred with.
                    let options = context.state().default_table_options().parquet;
                    Arc::new(ParquetFormat::default().with_options(options))
                }
            };
            let Typing { rule, room, depth, pinned, .. } = *reading.typing;
            let room = room.batch;
            let (found, each, rows) = match pinned {
                None => {
                    let room = (room, depth);
                    described::own(context, &files, kind.format, &format, rule, room).await?
                }
                // What each file has is read again where it is scanned.
                Some(pinned) => {
                    let found = pinned.schema()?;
                    let alike = described::Described::alike(&found, files.len());
                    (found, alike, pinned.table.batch_rows)
                }
            };
            batch_rows = rows;
            let schema = declared(options, &found)?;
            let complaints = changed(options, &schema, reading);
            let store = store_of(context, reading.at, &files)?;
            // Its reader takes columns by their places, and knows no other types than the file's.
            let common = (kind.format != TableFormat::Arrow).then(|| Arc::new(found));
            let declared = options.schema.clone();
            let files = files.clone();
            let own = OwnFiles { format, store, files, each, common, declared, room };
            (schema, Files::Own(own), complaints)
        }
    };
    let mut fields: Vec<FieldRef> = own.fields().iter().cloned().collect();
    let own = fields.len();
    let mut folders = Vec::new();
    for (at, folder) in folder_fields(&files).into_iter().enumerate() {
        match fields.iter().position(|field| field.name() == folder.name()) {
            // As release 0.1.0 read it.
            Some(column) => {
                let message = format!(
                    "the folders of table `{}` name a column `{}` that its files have, too; the files' own is read",
                    options.name,
                    folder.name()
                );
                complaints.push((column, Complaint::Warned(message)));
            }
            None => {
                folders.push(at);
                fields.push(Arc::new(folder));
            }
        }
    }
    Ok(SourceTable {
        name: options.name.clone(),
        schema: Arc::new(Schema::new(fields)),
        own,
        folders: folders.into(),
        files: source,
        batch_rows,
        complaints,
        reporter: Arc::clone(reading.typing.reporter),
        read: Default::default(),
    })
}

/// Opens a table that an engine of its own reads, and tells what the report says of it.
///
/// # Errors
/// As [`open`]; Unsupported where this build lacks the engine.
pub(super) async fn open_engine(
    context: &SessionContext,
    options: &TableOptions,
    format: TableFormat,
    (engines, finder): (&mut Engines, &mut Finder<'_>),
    reading: &Reading<'_>,
) -> Result<(SourceTable, InputFile)> {
    csv::check_options(options, format)?;
    let (engine, input) =
        engines.open(context, options, format, finder, reading.typing.since).await?;
    let schema = engine.provider.schema();
    let table = SourceTable {
        name: options.name.clone(),
        own: schema.fields().len(),
        folders: Arc::default(),
        batch_rows: BATCH_ROWS,
        complaints: changed(options, &schema, reading),
        reporter: Arc::clone(reading.typing.reporter),
        read: Default::default(),
        files: Files::Engine(engine),
        schema,
    };
    Ok((table, input))
}

/// Registers the store of a table under a name of its own: DataFusion knows stores by host, and two files of one web
/// server have two stores.
fn store_of(context: &SessionContext, at: usize, files: &[SourceFile]) -> Result<ObjectStoreUrl> {
    let url = ObjectStoreUrl::parse(format!("table{at}://files"))
        .map_err(|e| error(e, "naming a table's store"))?;
    if let Some(file) = files.first() {
        context.register_object_store(url.as_ref(), Arc::clone(&file.store));
    }
    Ok(url)
}

/// The schema with the declared types, where a cast to them loses nothing.
fn declared(options: &TableOptions, schema: &Schema) -> Result<Schema> {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    declared_columns_are_there(options, names)?;
    let field = |field: &FieldRef| match options.schema.get(field.name()) {
        None => Ok(Arc::clone(field)),
        Some(declared) if keeps(field.data_type(), declared) => {
            Ok(Arc::new(Field::new(field.name(), declared.data_type(), true)))
        }
        Some(declared) => {
            let wrong = Error::config(format!(
                "schema of table `{}` declares column `{}` as {}, but its files hold {}; convert it in corpus.sql",
                options.name,
                field.name(),
                declared.name(),
                field.data_type(),
            ));
            Err(wrong.of_key(format!("schema.{}", field.name())))
        }
    };
    Ok(Schema::new(schema.fields().iter().map(field).collect::<Result<Vec<_>>>()?))
}

/// Whether every value of a type is one of the declared type, or an error.
fn keeps(found: &DataType, declared: &ColumnType) -> bool {
    let plain = match found {
        DataType::Dictionary(_, values) => values,
        other => other,
    };
    match plain {
        DataType::Null => return true,
        text if is_text(text) => return *declared != ColumnType::Strings,
        _ => {}
    }
    let fits = match declared {
        ColumnType::String => {
            plain.is_integer() || plain.is_temporal() || *plain == DataType::Boolean
        }
        ColumnType::Integer => plain.is_integer() && *plain != DataType::UInt64,
        ColumnType::Float => matches!(plain, DataType::Float32 | DataType::Float64),
        ColumnType::Boolean => *plain == DataType::Boolean,
        ColumnType::Date => *plain == DataType::Date32,
        // A declared time has no room for nanoseconds.
        ColumnType::Timestamp => {
            matches!(plain, DataType::Timestamp(unit, _) if *unit != TimeUnit::Nanosecond)
        }
        ColumnType::Strings => matches!(plain, DataType::List(_) | DataType::LargeList(_)),
        ColumnType::Time(_) => false,
    };
    fits && can_cast_types(found, &declared.data_type())
}

/// Complaints about columns that are of another type than when the newest snapshot was made.
fn changed(
    options: &TableOptions,
    schema: &Schema,
    reading: &Reading<'_>,
) -> Vec<(usize, Complaint)> {
    let Some(before) = reading.before.filter(|_| reading.typing.rule == TypeRule::Exact) else {
        return Vec::new();
    };
    let complaint = |(at, field): (usize, &FieldRef)| {
        let (was, now) = (before.get(field.name())?, class(field.data_type()));
        if *was == now || options.schema.contains_key(field.name()) {
            return None;
        }
        let message = format!(
            "column `{}` of table `{}` is {now} now, but was {was} when the newest snapshot was made; what is made of it would be \
             printed in another way: correct the data, or declare the type that is meant: \
             schema = {{ {} = \"string\" }}",
            field.name(),
            options.name,
            toml_key(field.name()),
        );
        Some((at, Complaint::Refused(message)))
    };
    schema.fields().iter().enumerate().filter_map(complaint).collect()
}
