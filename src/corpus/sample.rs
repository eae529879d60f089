//! A first look at files that may become a table: their columns, and what the first rows have in them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;

use super::names::quoted;
use super::options::{TableOptions, TypeRule};
use super::outcome::class;
use super::session::{Depth, Room, error, physical_plan, query, session, sql_error};
use crate::corpus::source::find::Finder;
use crate::corpus::source::tables;
use crate::error::{Error, ErrorKind, Result, shielded_async};
use crate::observe::Reporter;
use crate::store::StorageOptions;
use crate::types::Cancel;

const MEMORY_MIB: u64 = 1024;
/// Rows that are looked at.
const ROWS: usize = 2_000;
const LOOKING: &str = "looking at the first rows";

/// What a column can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnShape {
    /// Text.
    Text,
    /// A list of texts.
    Texts,
    /// A whole number.
    Integer,
    /// A day or a point in time.
    Time,
    /// True or false.
    Flag,
    /// Another number.
    Number,
    /// Nothing that a note has.
    Other,
}

/// A column, and what the first rows have in it. It holds no value.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledColumn {
    /// As the files call it.
    pub name: String,
    /// As SQL spells it.
    pub sql: String,
    /// What its values are called: `string`, `integer`, `list of string`.
    pub type_name: String,
    /// What it can be used for.
    pub shape: ColumnShape,
    /// Rows that have a value which is not empty.
    pub filled: usize,
    /// Different values among them.
    pub distinct: usize,
    /// Characters of such values, on average.
    pub mean_chars: f64,
    /// Whether each value begins with a date as ISO 8601 writes it.
    pub iso_dates: bool,
}

/// The columns of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSample {
    /// In the order of the files.
    pub columns: Vec<SampledColumn>,
    /// Rows that were looked at.
    pub rows: usize,
    /// Files of the table; one, where its engine reads it.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Looks at a table: types come from all of its rows where its files do not say them, the rest from the first 2,000.
///
/// # Errors
/// As [`super::prepare`] about files; Input for a table without rows.
pub async fn sample_table(
    table: &TableOptions,
    base_dir: &Path,
    storage: &StorageOptions,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TableSample> {
    let what = || table.shown_uri();
    let looking = async {
        let context = session(MEMORY_MIB)?;
        let only = std::slice::from_ref(table);
        let finder = Finder::new(base_dir, storage, None, cancel, reporter.as_ref());
        let (rule, room, depth) = (TypeRule::Exact, Room::of(MEMORY_MIB), Depth::Whole);
        let typing =
            tables::Typing { rule, before: None, reporter, room, depth, since: None, pinned: None };
        let tables = tables::register(&context, only, finder, &typing).await?;
        let sql = format!("SELECT * FROM {} LIMIT {ROWS}", quoted(&table.name));
        let rows = query(&context, &sql).await.map_err(|cause| sql_error(cause, only))?;
        let (plan, task) = physical_plan(rows).await.map_err(|e| error(e, LOOKING))?;
        let schema = plan.schema();
        let mut stream = execute_stream(plan, task).map_err(|e| error(e, LOOKING))?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch.map_err(|e| error(e, LOOKING))?);
        }
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return Err(Error::input(format!("{} has no rows to look at", table.shown_uri())));
        }
        Ok(TableSample {
            columns: columns(&schema, &batches),
            rows,
            files: tables.inputs().len(),
            bytes: tables.inputs().iter().map(|input| input.size).sum(),
        })
    };
    shielded_async(ErrorKind::Input, what, cancel.unless_stopped(looking)).await
}

fn columns(schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<SampledColumn> {
    let column = |(at, field): (usize, &Arc<arrow::datatypes::Field>)| {
        let parts: Vec<&ArrayRef> = batches.iter().map(|batch| batch.column(at)).collect();
        let values: Vec<String> = parts.into_iter().flat_map(values).collect();
        let chars: usize = values.iter().map(|value| value.chars().count()).sum();
        SampledColumn {
            name: field.name().clone(),
            sql: quoted(field.name()),
            type_name: class(field.data_type()),
            shape: shape(field.data_type()),
            filled: values.len(),
            distinct: values.iter().collect::<HashSet<_>>().len(),
            mean_chars: chars as f64 / values.len().max(1) as f64,
            iso_dates: !values.is_empty() && values.iter().all(|value| is_iso_date(value)),
        }
    };
    schema.fields().iter().enumerate().map(column).collect()
}

/// The values as text, without nulls and empty ones; none of a column that cannot be text.
fn values(column: &ArrayRef) -> Vec<String> {
    let Ok(texts) = cast(column, &DataType::Utf8) else { return Vec::new() };
    let texts = texts.as_string::<i32>().iter().flatten();
    texts.filter(|text| !text.trim().is_empty()).map(str::to_owned).collect()
}

fn is_iso_date(text: &str) -> bool {
    let date = text.as_bytes().get(..10);
    date.is_some_and(|date| {
        date.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
    })
}

fn shape(data_type: &DataType) -> ColumnShape {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnShape::Text,
        DataType::Dictionary(_, values) => shape(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            match shape(item.data_type()) {
                ColumnShape::Text => ColumnShape::Texts,
                _ => ColumnShape::Other,
            }
        }
        DataType::Boolean => ColumnShape::Flag,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => ColumnShape::Time,
        integer if integer.is_integer() => ColumnShape::Integer,
        number if number.is_numeric() => ColumnShape::Number,
        _ => ColumnShape::Other,
    }
}
