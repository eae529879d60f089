//! Tables of databases: each is read by one statement, in the one snapshot that its connection has, through a file of its
//! own. A query may read a table more than once, and two tables side by side, which one connection cannot: so the rows are
//! written down first.

mod address;
mod driver;
mod mysql;
mod postgres;
mod spool;
mod sqlite;
mod statement;
mod written;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::Utc;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as PlanResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use tokio::sync::Mutex;

use self::address::Address;
use self::driver::{Column, Described, Driver};
use self::spool::Spool;
use self::written::Written;
use super::opened::{Changes, Engine};
use crate::corpus::options::{TableFormat, TableOptions};
use crate::corpus::outcome::{InputFile, Position};
use crate::corpus::session::{self, BATCH_ROWS};
use crate::corpus::source::find::Finder;
use crate::error::{Error, Result};

/// Batches that a reader may be ahead.
const AHEAD: usize = 2;

type Connection = Arc<Mutex<Box<dyn Driver>>>;

/// The databases that tables were opened in so far.
#[derive(Default)]
pub(super) struct Databases(HashMap<String, Connection>);

impl Databases {
    /// Opens a table.
    ///
    /// # Errors
    /// Config for an address that makes no sense, and where the environment lacks a name or a password; Input for tables
    /// that are not there; Transient where nobody answers.
    pub(super) async fn open(
        &mut self,
        options: &TableOptions,
        format: TableFormat,
        finder: &Finder<'_>,
        since: Option<&Position>,
    ) -> Result<(Engine, InputFile)> {
        let (shown, size, connection) = match format {
            TableFormat::Sqlite => {
                let path = finder.local_file(options)?;
                let size = tokio::fs::metadata(&path).await.map_or(0, |file| file.len());
                let shown = path.display().to_string();
                let connection = match self.0.get(&shown) {
                    Some(connection) => Arc::clone(connection),
                    None => self.keep(&shown, Box::new(sqlite::Sqlite::open(path).await?)),
                };
                (shown, size, connection)
            }
            _ => {
                let address = Address::of(options, format)?;
                let shown = address.to_string();
                let connection = match self.0.get(&shown) {
                    Some(connection) => Arc::clone(connection),
                    None => {
                        let driver: Box<dyn Driver> = match format {
                            TableFormat::Postgres => {
                                Box::new(postgres::Postgres::connect(&address).await?)
                            }
                            _ => Box::new(mysql::Mysql::connect(&address).await?),
                        };
                        self.keep(&shown, driver)
                    }
                };
                (shown, 0, connection)
            }
        };
        let modified = Utc::now().to_rfc3339();
        let name = options.table.as_deref().unwrap_or(&options.name);
        let described = connection.lock().await.describe(name).await?;
        let Described { columns, from, read } = described;
        if columns.is_empty() {
            return Err(Error::input(format!(
                "{shown} has no table `{name}` that this user may read; set `table` to its name there"
            )));
        };
        let field = |column: &Column| Field::new(&column.name, column.data_type.clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let input = InputFile {
            table: options.name.clone(),
            uri: format!("{shown}#{name}"),
            size,
            etag: None,
            modified,
            version: None,
            read: Some(read),
        };
        let name = format!("table `{name}` of {shown}");
        let columns = columns.into();
        let table = Table { name, schema, columns, from, only: None, connection };
        let engine = match &options.changed_at {
            None => Engine::new(Arc::new(table)),
            Some(column) => {
                table.with_changes(column, (&input.uri, input.read.as_deref()), since).await?
            }
        };
        Ok((engine, input))
    }

    fn keep(&mut self, shown: &str, driver: Box<dyn Driver>) -> Connection {
        let connection = Arc::new(Mutex::new(driver));
        self.0.insert(shown.to_owned(), Arc::clone(&connection));
        connection
    }
}

/// A table of a database.
#[derive(Clone)]
struct Table {
    /// For messages.
    name: String,
    schema: SchemaRef,
    columns: Arc<[Column]>,
    from: String,
    /// The condition of the rows that are read; `None` for all.
    only: Option<String>,
    connection: Connection,
}

impl Table {
    /// The table with what was written to it since an earlier run, by a column that says when.
    async fn with_changes(
        self,
        column: &str,
        (uri, read): (&str, Option<&str>),
        since: Option<&Position>,
    ) -> Result<Engine> {
        let written = Written::by(column, &self.columns, &self.name)?;
        let now = {
            let mut driver = self.connection.lock().await;
            written.mark(driver.as_mut(), &self.from, &self.name).await?
        };
        let (uri, id) = (uri.to_owned(), column.to_owned());
        let mark = now.as_ref().and_then(Written::text);
        let position = mark.map(|mark| Position { uri, id, version: None, mark: Some(mark) });
        let changes = since.map(|before| {
            let place = position.as_ref().map(|now| (&now.uri, &now.id));
            let (Some(mark), Some(now)) = (&before.mark, &now) else {
                return Err(format!("it has no value of `{column}`"));
            };
            if place != Some((&before.uri, &before.id)) {
                return Err("it is another table, or by another column".to_owned());
            }
            let (only, rows) = written.since(mark, now)?;
            let read = format!("{rows}, by {}", read.unwrap_or("one statement"));
            let provider = Arc::new(Self { only: Some(only), ..self.clone() });
            Ok(Changes { provider, bytes: 0, read })
        });
        Ok(Engine { provider: Arc::new(self.clone()), position, changes })
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match statement::condition(filter, &self.columns) {
            // A database may find texts equal that differ.
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.columns.len()).collect();
        let places: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let schema = Arc::new(self.schema.project(&places)?);
        let only = self.only.as_deref();
        let sql = statement::select(&self.columns, &places, &self.from, (only, filters), limit);
        let (name, connection) = (self.name.clone(), Arc::clone(&self.connection));
        let scan = Scan { name, sql, schema: Arc::clone(&schema), connection };
        let sorting = Vec::<LexOrdering>::new();
        Ok(Arc::new(StreamingTableExec::try_new(
            schema,
            vec![Arc::new(scan)],
            None,
            sorting,
            false,
            limit,
        )?))
    }
}

/// One statement.
struct Scan {
    /// The table, for messages.
    name: String,
    sql: String,
    schema: SchemaRef,
    connection: Connection,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql)
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), AHEAD);
        let (sql, schema, sender) = (self.sql.clone(), Arc::clone(&self.schema), builder.tx());
        let (name, connection) = (self.name.clone(), Arc::clone(&self.connection));
        builder.spawn(async move {
            let spool = Spool::new(name, &schema).map_err(session::own)?;
            // Until all rows are on disk, and no longer: a reader of another table may wait for it, and this one for that.
            let spool = connection.lock().await.read(&sql, spool).await.map_err(session::own)?;
            let reading = tokio::task::spawn_blocking(move || {
                let mut emit = |batch: RecordBatch| Ok(sender.blocking_send(Ok(batch)).is_ok());
                match schema.fields().is_empty() {
                    true => counted(&schema, spool.count()?, emit),
                    false => spool.read(&mut emit),
                }
            });
            let read = reading.await.map_err(|e| Error::internal("reading rows").with_source(e));
            read.and_then(|read| read).map_err(session::own)
        });
        builder.build()
    }
}

/// Rows without columns.
fn counted(
    schema: &SchemaRef,
    mut rows: usize,
    mut emit: impl FnMut(RecordBatch) -> Result<bool>,
) -> Result<()> {
    while rows > 0 {
        let some = rows.min(BATCH_ROWS);
        let options = RecordBatchOptions::new().with_row_count(Some(some));
        let batch = RecordBatch::try_new_with_options(Arc::clone(schema), Vec::new(), &options)
            .map_err(|e| Error::internal("rows without columns").with_source(e))?;
        if !emit(batch)? {
            break;
        }
        rows -= some;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
