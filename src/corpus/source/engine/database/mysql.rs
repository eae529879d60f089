//! MySQL and MariaDB: one transaction over a consistent snapshot, as far as a table's engine has any.

use arrow::datatypes::DataType;
use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, SslOpts, Value};

use super::address::Address;
use super::driver::{
    Column, Compares, Described, Driver, column_name, quoted, rustls_provider, time,
};
use super::spool::Spool;
use crate::corpus::session::redact;
use crate::error::{Error, ErrorKind, Result};

/// How SQL is read and values are printed, and what all statements see.
const BEGIN: [&str; 5] = [
    "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
    "SET SESSION time_zone = '+00:00'",
    "SET SESSION net_write_timeout = 3600",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
];

/// A connection.
pub(super) struct Mysql {
    connection: Conn,
    database: String,
    shown: String,
}

impl Mysql {
    /// Connects and begins to read.
    ///
    /// # Errors
    /// Config for a user whom the server does not let in; Transient where it does not answer.
    pub(super) async fn connect(address: &Address) -> Result<Self> {
        let shown = address.to_string();
        if address.encrypted {
            rustls_provider();
        }
        let options = OptsBuilder::default()
            .ip_or_hostname(address.host.as_str())
            .tcp_port(address.port)
            .user(Some(address.user.as_str()))
            .pass(address.password.as_deref())
            .db_name(Some(address.database.as_str()))
            .prefer_socket(false)
            .ssl_opts(address.encrypted.then(SslOpts::default));
        let mut connection = Conn::new(options).await.map_err(|e| failed(&shown, &e))?;
        for statement in BEGIN {
            connection.query_drop(statement).await.map_err(|e| failed(&shown, &e))?;
        }
        Ok(Self { connection, database: address.database.clone(), shown })
    }
}

#[async_trait]
impl Driver for Mysql {
    async fn describe(&mut self, table: &str) -> Result<Described> {
        let (schema, name) = table.split_once('.').unwrap_or((&self.database, table));
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let of = format!("table_schema = {} AND table_name = {}", literal(schema), literal(name));
        let sql = format!(
            "SELECT column_name, data_type, column_type, numeric_precision, numeric_scale \
             FROM information_schema.columns WHERE {of} ORDER BY ordinal_position"
        );
        let failed = |e| failed(&self.shown, &e);
        let rows: Vec<Row> = self.connection.query(sql).await.map_err(failed)?;
        let columns = rows.iter().map(|row| {
            let text = |at| row.as_ref(at).map(text).unwrap_or_default().unwrap_or_default();
            column(
                &text(0),
                &text(1).to_lowercase(),
                &text(2).to_lowercase(),
                text(3).parse().ok(),
                text(4).parse().ok(),
            )
        });
        let columns = columns.collect();
        let sql = format!("SELECT engine FROM information_schema.tables WHERE {of}");
        let engine: Option<Row> = self.connection.query_first(sql).await.map_err(failed)?;
        let engine = engine.and_then(|row| row.as_ref(0).and_then(text));
        let read = match engine.as_deref() {
            Some("InnoDB") => "one statement, in a repeatable-read snapshot of InnoDB".to_owned(),
            // A view has no engine; its tables may.
            Some(other) => format!("one statement; {other} has no snapshots"),
            None => "one statement, in a repeatable-read snapshot of what has any".to_owned(),
        };
        Ok(Described { columns, from: quoted(table), read })
    }

    async fn read(&mut self, sql: &str, mut spool: Spool) -> Result<Spool> {
        let failed = |e| failed(&self.shown, &e);
        let mut rows = self.connection.query_iter(sql).await.map_err(failed)?;
        while let Some(row) = rows.next().await.map_err(failed)? {
            let mut texts = Vec::with_capacity(row.len());
            for at in 0..row.len() {
                match row.as_ref(at) {
                    Some(Value::Bytes(bytes)) => texts.push(Some(spool.text(bytes)?)),
                    // Statements without parameters are answered in texts.
                    _ => texts.push(None),
                }
            }
            spool.push(texts.into_iter())?;
        }
        Ok(spool)
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

/// A column by its type.
fn column(name: &str, of: &str, whole: &str, precision: Option<u8>, scale: Option<i8>) -> Column {
    let plain = column_name(name);
    let (data_type, select, compares) = match of {
        // What BOOLEAN is short for.
        "tinyint" if whole.starts_with("tinyint(1)") => {
            (DataType::Boolean, format!("({plain} <> 0)"), Compares::Nothing)
        }
        "bigint" if whole.contains("unsigned") => (DataType::UInt64, plain, Compares::Ordered),
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => {
            (DataType::Int64, plain, Compares::Ordered)
        }
        "float" | "double" => (DataType::Float64, plain, Compares::Nothing),
        "decimal" => match (precision, scale) {
            (Some(precision @ 1..=38), Some(scale)) => {
                (DataType::Decimal128(precision, scale), plain, Compares::Nothing)
            }
            _ => (DataType::Utf8, plain, Compares::Nothing),
        },
        "date" => (DataType::Date32, plain, Compares::Ordered),
        "datetime" => (time(false), plain, Compares::Ordered),
        "timestamp" => (time(true), plain, Compares::Ordered),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" => {
            (DataType::Utf8, plain, Compares::Equal)
        }
        "json" | "set" | "time" | "inet4" | "inet6" | "uuid" => {
            (DataType::Utf8, plain, Compares::Nothing)
        }
        _ => (DataType::Utf8, format!("HEX({plain})"), Compares::Nothing),
    };
    Column { name: name.to_owned(), data_type, select, compares }
}

fn failed(shown: &str, cause: &mysql_async::Error) -> Error {
    let mysql_async::Error::Server(said) = cause else {
        return Error::new(ErrorKind::Transient, format!("{shown} cannot be read: {cause}"));
    };
    let kind = match said.code {
        // Access denied, unknown database.
        1044 | 1045 | 1049 | 1142 | 1698 => ErrorKind::Config,
        // Too many connections, lock wait timeout, deadlock, shutdown.
        1040 | 1053 | 1205 | 1213 => ErrorKind::Transient,
        _ => ErrorKind::Input,
    };
    Error::new(kind, format!("{shown} refuses: {} (error {})", redact(&said.message), said.code))
}
