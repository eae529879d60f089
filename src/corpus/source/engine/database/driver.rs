//! What every database gives: what a table has, and the rows of a statement.

use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;

use super::spool::Spool;
use crate::error::Result;

/// A connection that reads one snapshot from beginning to end.
#[async_trait]
pub(super) trait Driver: Send {
    /// The columns of a table; none if the database has no such table.
    async fn describe(&mut self, table: &str) -> Result<Described>;

    /// Runs a query to its end, and writes its rows down.
    async fn read(&mut self, sql: &str, spool: Spool) -> Result<Spool>;
}

/// A table as its database describes it.
pub(super) struct Described {
    pub(super) columns: Vec<Column>,
    /// Its name, as SQL spells it.
    pub(super) from: String,
    /// What makes the rows of a statement, and of the next one, those of one moment.
    pub(super) read: String,
}

/// A column as its database describes it.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) data_type: DataType,
    /// The expression that gives its text.
    pub(super) select: String,
    /// Which comparisons the database makes as this program does, or more broadly: rows are filtered once more.
    pub(super) compares: Compares,
}

/// Which comparisons of a column a database may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compares {
    /// All of them.
    Ordered,
    /// With what is equal; a database may sort texts in another way.
    Equal,
    /// None.
    Nothing,
}

/// A point in time, in UTC where `zoned`.
pub(super) fn time(zoned: bool) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| "UTC".into()))
}

/// A name as SQL spells it; `blog.notes` is `notes` in `blog`.
pub(super) fn quoted(name: &str) -> String {
    let parts = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    parts.collect::<Vec<_>>().join(".")
}

/// A name of one part as SQL spells it.
pub(super) fn column_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Says which of the cryptography in this build encrypts connections: there may be two.
pub(super) fn rustls_provider() {
    // An error says that it was said before.
    rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
}
