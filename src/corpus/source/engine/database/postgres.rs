//! PostgreSQL: one transaction, in which every statement sees what the first one saw.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, pin_mut};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::driver::{
    Column, Compares, Described, Driver, column_name, quoted, rustls_provider, time,
};
use super::spool::Spool;
use crate::corpus::session::redact;
use crate::error::{Error, ErrorKind, Result};

/// How long a server may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// How values are printed, and what all statements see.
const BEGIN: &str = "SET standard_conforming_strings = on; SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; \
     SET extra_float_digits = 1; SET idle_in_transaction_session_timeout = 0; \
     BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection.
pub(super) struct Postgres {
    client: Client,
    shown: String,
}

impl Postgres {
    /// Connects and begins to read.
    ///
    /// # Errors
    /// Config for a user whom the server does not let in; Transient where it does not answer.
    pub(super) async fn connect(address: &Address) -> Result<Self> {
        let shown = address.to_string();
        let mut config = Config::new();
        config.host(&address.host).port(address.port).dbname(&address.database);
        config.user(&address.user).application_name("scalingnote").connect_timeout(PATIENCE);
        if let Some(password) = &address.password {
            config.password(password);
        }
        let client = match address.encrypted {
            true => {
                config.ssl_mode(SslMode::Require);
                client(&config, tls(&shown)?).await
            }
            false => {
                config.ssl_mode(SslMode::Disable);
                client(&config, NoTls).await
            }
        };
        let client = client.map_err(|e| failed(&shown, &e))?;
        client.batch_execute(BEGIN).await.map_err(|e| failed(&shown, &e))?;
        Ok(Self { client, shown })
    }
}

/// Encryption to servers whose certificates this machine trusts.
fn tls(shown: &str) -> Result<MakeRustlsConnect> {
    rustls_provider();
    let (connect, unread) = MakeRustlsConnect::with_native_certs().map_err(|_| {
        Error::config(format!("{shown}: this machine has no certificates to know a server by"))
    })?;
    drop(unread);
    Ok(connect)
}

async fn client<T>(config: &Config, tls: T) -> std::result::Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    <T as MakeTlsConnect<Socket>>::Stream: Send + 'static,
    <T as MakeTlsConnect<Socket>>::TlsConnect: Send,
    <<T as MakeTlsConnect<Socket>>::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    // It ends with the client, to which it tells what went wrong.
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    Ok(client)
}

#[async_trait]
impl Driver for Postgres {
    async fn describe(&mut self, table: &str) -> Result<Described> {
        let from = quoted(table);
        let sql = format!(
            "SELECT a.attname, t.typname, t.typcategory, e.typname, a.atttypmod FROM pg_attribute a \
             JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type e ON e.oid = t.typelem \
             WHERE a.attrelid = to_regclass('{}') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            from.replace('\'', "''")
        );
        let rows = self.client.simple_query(&sql).await.map_err(|e| failed(&self.shown, &e))?;
        let column = |message: &SimpleQueryMessage| {
            let SimpleQueryMessage::Row(row) = message else { return None };
            let text = |at| row.get(at).unwrap_or_default();
            let length = text(4).parse().unwrap_or(-1);
            Some(column(text(0), text(1), text(2), text(3), length))
        };
        let columns: Vec<Column> = rows.iter().filter_map(column).collect();
        let read = "one statement, in a repeatable-read snapshot of PostgreSQL".to_owned();
        Ok(Described { columns, from, read })
    }

    async fn read(&mut self, sql: &str, mut spool: Spool) -> Result<Spool> {
        let failed = |e| failed(&self.shown, &e);
        let rows = self.client.simple_query_raw(sql).await.map_err(failed)?.fuse();
        pin_mut!(rows);
        while let Some(message) = rows.try_next().await.map_err(failed)? {
            if let SimpleQueryMessage::Row(row) = message {
                spool.push((0..row.len()).map(|at| row.get(at)))?;
            }
        }
        Ok(spool)
    }
}

/// A column by its type's name and category, for an array its element's.
fn column(name: &str, of: &str, category: &str, element: &str, length: i32) -> Column {
    let plain = column_name(name);
    let text = |of: &str| matches!(of, "text" | "varchar" | "bpchar" | "name" | "citext");
    let (data_type, select, compares) = match of {
        "int2" | "int4" | "int8" => (DataType::Int64, plain, Compares::Ordered),
        "oid" => (DataType::Int64, plain, Compares::Nothing),
        "float4" | "float8" => (DataType::Float64, plain, Compares::Nothing),
        "bool" => (DataType::Boolean, plain, Compares::Nothing),
        "date" => (DataType::Date32, plain, Compares::Ordered),
        "timestamp" => (time(false), plain, Compares::Ordered),
        "timestamptz" => (time(true), plain, Compares::Ordered),
        "numeric" => (decimal(length), plain, Compares::Nothing),
        of if text(of) => (DataType::Utf8, plain, Compares::Equal),
        _ if category == "A" && text(element) => {
            let strings = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
            (strings, format!("array_to_json({plain})::text"), Compares::Nothing)
        }
        _ => (DataType::Utf8, format!("{plain}::text"), Compares::Nothing),
    };
    Column { name: name.to_owned(), data_type, select, compares }
}

/// The type of a number with a fixed point; of one without, its text.
fn decimal(length: i32) -> DataType {
    let (precision, scale) = ((length - 4) >> 16, (length - 4) & 0x7ff);
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if i16::from(scale) <= i16::from(precision) => {
            DataType::Decimal128(precision, scale)
        }
        _ => DataType::Utf8,
    }
}

fn failed(shown: &str, cause: &tokio_postgres::Error) -> Error {
    let Some(said) = cause.as_db_error() else {
        let source = std::error::Error::source(cause).map(|source| format!(": {source}"));
        let what = format!("{shown} cannot be read: {cause}{}", source.unwrap_or_default());
        return Error::new(ErrorKind::Transient, what);
    };
    let code = said.code().code();
    let kind = match &code[..2] {
        // Who asks, and what for.
        "28" | "3D" => ErrorKind::Config,
        "08" | "53" | "57" | "40" => ErrorKind::Transient,
        _ => ErrorKind::Input,
    };
    Error::new(kind, format!("{shown} refuses: {} (SQLSTATE {code})", redact(said.message())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_a_point_keep_it() {
        // numeric(10, 2), numeric, numeric(1000, 2)
        assert_eq!(decimal((10 << 16 | 2) + 4), DataType::Decimal128(10, 2));
        assert_eq!(decimal(-1), DataType::Utf8);
        assert_eq!(decimal((1000 << 16 | 2) + 4), DataType::Utf8);
    }
}
