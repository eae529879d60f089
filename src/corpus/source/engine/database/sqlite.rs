//! SQLite: a file, which is read in one transaction.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::driver::{Column, Compares, Described, Driver, column_name, quoted};
use super::spool::Spool;
use crate::error::{Error, ErrorKind, Result};

/// How long a writer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file that is open for reading.
pub(super) struct Sqlite {
    path: PathBuf,
    connection: Arc<Mutex<Connection>>,
}

impl Sqlite {
    /// Opens a file and begins to read: it stays as it is now.
    ///
    /// # Errors
    /// Input for what is not there, or no database.
    pub(super) async fn open(path: PathBuf) -> Result<Self> {
        if !path.is_file() {
            return Err(Error::input(format!("{} is not a file", path.display())));
        }
        let file = path.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&file, flags)?;
            connection.busy_timeout(PATIENCE)?;
            // The transaction begins with what is read first.
            connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_master")?;
            Ok(connection)
        });
        let opened = opening.await.map_err(|e| Error::internal("opening SQLite").with_source(e))?;
        let opened = opened.map_err(|e| failed(&path, e))?;
        Ok(Self { path, connection: Arc::new(Mutex::new(opened)) })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (connection, path) = (Arc::clone(&self.connection), self.path.clone());
        let working = tokio::task::spawn_blocking(move || {
            work(&connection.lock().unwrap_or_else(PoisonError::into_inner), &path)
        });
        working.await.map_err(|e| Error::internal("reading SQLite").with_source(e))?
    }
}

#[async_trait]
impl Driver for Sqlite {
    async fn describe(&mut self, table: &str) -> Result<Described> {
        let name = table.to_owned();
        let columns = self.with(move |connection, path| {
            let failed = |e| failed(path, e);
            // Hidden columns of virtual tables are not asked for.
            let sql = "SELECT name, upper(type) FROM pragma_table_xinfo(?1) WHERE hidden <> 1";
            let mut statement = connection.prepare(sql).map_err(failed)?;
            let columns = statement
                .query_map([&name], |row| Ok(column(row.get(0)?, &row.get::<_, String>(1)?)));
            columns.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>).map_err(failed)
        });
        let columns = columns.await?;
        let read = "one statement, in one read transaction of SQLite".to_owned();
        Ok(Described { columns, from: quoted(table), read })
    }

    async fn read(&mut self, sql: &str, mut spool: Spool) -> Result<Spool> {
        let sql = sql.to_owned();
        self.with(move |connection, path| {
            let failed = |e| failed(path, e);
            let mut statement = connection.prepare(&sql).map_err(failed)?;
            let width = statement.column_count();
            let mut rows = statement.query([]).map_err(failed)?;
            let mut texts: Vec<Option<String>> = vec![None; width];
            while let Some(row) = rows.next().map_err(failed)? {
                for (at, text) in texts.iter_mut().enumerate() {
                    *text = match row.get_ref(at).map_err(failed)? {
                        ValueRef::Null => None,
                        ValueRef::Integer(number) => Some(number.to_string()),
                        // As SQLite prints it: with a point.
                        ValueRef::Real(number) => Some(format!("{number:?}")),
                        ValueRef::Text(bytes) => Some(spool.text(bytes)?.to_owned()),
                        ValueRef::Blob(_) => {
                            return Err(Error::input(format!(
                                "{}: a column that is asked for has bytes, not a text; convert them there (a view with \
                                 CAST), or leave the column out",
                                spool.name()
                            )));
                        }
                    };
                }
                spool.push(texts.iter().map(Option::as_deref))?;
            }
            Ok(spool)
        })
        .await
    }
}

/// A column by SQLite's rules of what a declared type stands for. Its values may be of another type still, and then do
/// not fit.
fn column(name: String, declared: &str) -> Column {
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    let (data_type, compares) = match () {
        () if has(&["BOOL"]) => (DataType::Boolean, Compares::Nothing),
        () if has(&["INT"]) => (DataType::Int64, Compares::Ordered),
        () if has(&["CHAR", "CLOB", "TEXT"]) => (DataType::Utf8, Compares::Equal),
        () if has(&["REAL", "FLOA", "DOUB"]) => (DataType::Float64, Compares::Nothing),
        // Dates are texts or numbers there.
        () => (DataType::Utf8, Compares::Nothing),
    };
    Column { select: column_name(&name), name, data_type, compares }
}

fn failed(path: &Path, cause: rusqlite::Error) -> Error {
    let kind = match cause.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            ErrorKind::Transient
        }
        _ => ErrorKind::Input,
    };
    Error::new(kind, format!("{} cannot be read as an SQLite database: {cause}", path.display()))
}
