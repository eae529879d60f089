//! Training pairs from tables, by the same reader as the corpus of notes.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;

use super::options::{TableOptions, TypeRule};
use super::session::{Depth, Room, error, physical_plan, query, session, sql_error};
use crate::corpus::source::find::Finder;
use crate::corpus::source::{file, tables};
use crate::error::{Error, ErrorKind, Result, shielded_async};
use crate::observe::Reporter;
use crate::observe::format::counted;
use crate::store::StorageOptions;
use crate::types::{Cancel, PairRecord};

const MEMORY_MIB: u64 = 1024;
const READING: &str = "reading training pairs";

/// Rows of a query over one table: columns `query` and `text`, optionally `title`, `negatives` (a list of strings) and
/// `weight`; others (`note_id`) are passed over. Sorted, so that the order is a function of the content alone. All of
/// them are held in memory.
///
/// # Errors
/// Config for wrong SQL, a missing column or one of a wrong type; Input for files that cannot be read, a null query or
/// text, or files that change while they are read.
pub async fn read_pairs(
    table: &TableOptions,
    sql: &str,
    base_dir: &Path,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<Vec<PairRecord>> {
    let what = || format!("training pairs of {}", table.shown_uri());
    let reading = async {
        let context = session(MEMORY_MIB)?;
        let storage = StorageOptions::default();
        let only = std::slice::from_ref(table);
        let finder = Finder::new(base_dir, &storage, None, cancel, reporter.as_ref());
        let (rule, room, depth) = (TypeRule::Exact, Room::of(MEMORY_MIB), Depth::Whole);
        let typing =
            tables::Typing { rule, before: None, reporter, room, depth, since: None, pinned: None };
        let tables = tables::register(&context, only, finder, &typing);
        let tables = cancel.unless_stopped(tables).await?;
        if let Some(first) = tables.rejections.samples.first() {
            let rows = counted(tables.rejections.total(), "row");
            return Err(Error::input(format!("{rows} cannot be read, e.g. {first}")));
        }
        let query = query(&context, sql).await.map_err(|cause| wrong_sql(cause, only))?;
        let (plan, task) = physical_plan(query).await.map_err(|e| error(e, READING))?;
        let mut stream = execute_stream(plan, task).map_err(|e| error(e, READING))?;
        let mut rows = Vec::new();
        while let Some(batch) = stream.next().await {
            cancel.check()?;
            rows_of(&batch.map_err(|e| error(e, READING))?, &mut rows)?;
        }
        file::check_unchanged(&tables.files).await?;
        Ok(rows)
    };
    let mut rows: Vec<PairRecord> =
        shielded_async(ErrorKind::Input, what, reading).await.map_err(|e| e.context(what()))?;
    rows.sort_by(|a, b| {
        let texts = |row: &PairRecord| (row.query.clone(), row.title.clone(), row.text.clone());
        texts(a)
            .cmp(&texts(b))
            .then_with(|| a.negatives.cmp(&b.negatives))
            .then_with(|| a.weight.unwrap_or(1.0).total_cmp(&b.weight.unwrap_or(1.0)))
    });
    Ok(rows)
}

/// The key is `sql` here.
fn wrong_sql(cause: DataFusionError, tables: &[TableOptions]) -> Error {
    let error = sql_error(cause, tables);
    Error::new(error.kind(), error.to_string().replacen("corpus.sql", "sql", 1))
}

fn rows_of(batch: &RecordBatch, rows: &mut Vec<PairRecord>) -> Result<()> {
    let column = |name: &str, to: &DataType| -> Result<Option<ArrayRef>> {
        let Some(column) = batch.column_by_name(name) else { return Ok(None) };
        let wrong = |e| {
            Error::config(format!(
                "column `{name}` of the pairs is {}, which is not a {to}",
                column.data_type()
            ))
            .with_source(e)
        };
        cast(column, to).map(Some).map_err(wrong)
    };
    let needed = |name: &str| -> Result<ArrayRef> {
        column(name, &DataType::Utf8)?.ok_or_else(|| {
            Error::config(format!(
                "the pairs have no column `{name}`; name it in `sql`: SELECT a AS query, b AS text FROM pairs"
            ))
        })
    };
    let (query, text) = (needed("query")?, needed("text")?);
    let title = column("title", &DataType::Utf8)?;
    let weight = column("weight", &DataType::Float32)?;
    // A text that is not a number casts to null, which would mean 1.
    if let (Some(cast), Some(given)) = (&weight, batch.column_by_name("weight"))
        && cast.null_count() > given.logical_null_count()
    {
        return Err(Error::input("column `weight` of the pairs holds a text that is not a number"));
    }
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let negatives = column("negatives", &list)?;
    for at in 0..batch.num_rows() {
        if query.is_null(at) || text.is_null(at) {
            return Err(Error::input(
                "a pair without a query or a text; leave such rows out in `sql`",
            ));
        }
        let value = |column: &ArrayRef| match column.is_null(at) {
            true => String::new(),
            false => column.as_string::<i32>().value(at).to_owned(),
        };
        let weight = weight.as_ref().filter(|column| !column.is_null(at));
        let negatives = negatives.as_ref().filter(|column| !column.is_null(at));
        rows.push(PairRecord {
            query: value(&query),
            title: title.as_ref().map(value).unwrap_or_default(),
            text: value(&text),
            negatives: negatives.map_or_else(Vec::new, |column| {
                let texts = column.as_list::<i32>().value(at);
                texts.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
            }),
            weight: weight.map(|column| column.as_primitive::<Float32Type>().value(at)),
        });
    }
    Ok(())
}
