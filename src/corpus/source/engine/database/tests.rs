use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use rusqlite::Connection as Writer;

use super::*;
use crate::corpus::session::session;
use crate::error::ErrorKind;
use crate::observe::Silent;
use crate::store::StorageOptions;
use crate::types::Cancel;

const NOTES: &str = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, lang VARCHAR(2), stars REAL, \
     deleted BOOLEAN, at DATETIME, free); \
     INSERT INTO notes VALUES (1, 'note 1', 'en', 1.5, 0, '2024-10-01 12:00:00', 7), (2, 'note 2', 'zh', NULL, 1, NULL, \
     'seven'), (3, NULL, 'en', 3, 0, '2024-10-03', NULL)";

fn written(folder: &Path, sql: &str) -> Writer {
    let writer = Writer::open(folder.join("notes.db")).unwrap();
    writer.execute_batch(sql).unwrap();
    writer
}

async fn opened(folder: &Path, tables: &[&str]) -> Result<(SessionContext, Vec<InputFile>)> {
    let context = session(256)?;
    let (storage, cancel) = (StorageOptions::default(), Cancel::new());
    let finder = Finder::new(folder, &storage, None, &cancel, &Silent);
    let (mut databases, mut inputs) = (Databases::default(), Vec::new());
    for name in tables {
        let options = TableOptions::new(name, "notes.db");
        let (engine, input) = databases.open(&options, TableFormat::Sqlite, &finder, None).await?;
        context.register_table(*name, engine.provider).unwrap();
        inputs.push(input);
    }
    Ok((context, inputs))
}

async fn ids(context: &SessionContext, sql: &str) -> Vec<i64> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values());
    ids.copied().collect()
}

/// The statements of a plan.
async fn statements(context: &SessionContext, sql: &str) -> Vec<String> {
    let mut plans = vec![context.sql(sql).await.unwrap().create_physical_plan().await.unwrap()];
    let mut found = Vec::new();
    while let Some(plan) = plans.pop() {
        if let Some(table) = plan.downcast_ref::<StreamingTableExec>() {
            found.extend(table.partitions().iter().map(|statement| format!("{statement:?}")));
        }
        plans.extend(plan.children().into_iter().cloned());
    }
    found
}

#[tokio::test]
async fn every_column_has_its_type() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), NOTES);
    let (context, inputs) = opened(folder.path(), &["notes"]).await.unwrap();
    assert_eq!(inputs[0].uri, format!("{}#notes", folder.path().join("notes.db").display()));
    let rows = context.sql("SELECT * FROM notes ORDER BY id").await.unwrap();
    let shown = pretty_format_batches(&rows.collect().await.unwrap()).unwrap().to_string();
    let rows: Vec<&str> = shown.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(
        rows[1..],
        [
            "| 1  | note 1 | en   | 1.5   | false   | 2024-10-01 12:00:00 | 7     |",
            "| 2  | note 2 | zh   |       | true    |                     | seven |",
            "| 3  |        | en   | 3.0   | false   | 2024-10-03          |       |",
        ]
    );
}

#[tokio::test]
async fn filters_and_columns_are_the_databases_work() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), NOTES);
    let (context, _) = opened(folder.path(), &["notes"]).await.unwrap();
    for (sql, statement, wanted) in [
        (
            "SELECT id FROM notes WHERE id >= 2 AND body IS NOT NULL",
            "SELECT \"id\", \"body\" FROM \"notes\" WHERE \"id\" >= 2 AND \"body\" IS NOT NULL",
            vec![2],
        ),
        (
            "SELECT id FROM notes WHERE lang = 'en' AND lower(body) = 'note 1'",
            "SELECT \"id\", \"body\", \"lang\" FROM \"notes\" WHERE \"lang\" = 'en'",
            vec![1],
        ),
        ("SELECT count(*) FROM notes", "SELECT count(*) FROM \"notes\"", vec![3]),
    ] {
        assert_eq!(statements(&context, sql).await, [statement], "{sql}");
        assert_eq!(ids(&context, sql).await, wanted, "{sql}");
    }
}

#[tokio::test]
async fn all_statements_see_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let writer = written(folder.path(), "PRAGMA journal_mode = wal");
    written(
        folder.path(),
        &format!(
            "{NOTES}; CREATE TABLE tags (id INTEGER, tag TEXT); INSERT INTO tags VALUES (1, 'a')"
        ),
    );
    let (context, inputs) = opened(folder.path(), &["notes", "tags"]).await.unwrap();
    assert_eq!(inputs[1].read.as_deref(), Some("one statement, in one read transaction of SQLite"));
    writer.execute_batch("DELETE FROM notes WHERE id = 1; UPDATE tags SET tag = 'b'").unwrap();
    assert_eq!(ids(&context, "SELECT count(*) FROM notes").await, [3]);
    // Two readers of one connection, each of which waits for the other.
    let joined = "SELECT notes.id FROM notes JOIN tags ON notes.id = tags.id JOIN notes AS more ON more.id = notes.id \
                  WHERE tag = 'a'";
    assert_eq!(ids(&context, joined).await, [1]);
    let (context, _) = opened(folder.path(), &["notes"]).await.unwrap();
    assert_eq!(ids(&context, "SELECT count(*) FROM notes").await, [2]);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_without_its_value() {
    let folder = tempfile::tempdir().unwrap();
    written(
        folder.path(),
        &format!("{NOTES}; INSERT INTO notes VALUES (4, x'00ff', 'en', 'hush', 0, NULL, NULL)"),
    );
    let (context, _) = opened(folder.path(), &["notes"]).await.unwrap();
    for (column, says) in [("stars", "column `stars`"), ("body", "has bytes")] {
        let rows = context.sql(&format!("SELECT {column} FROM notes")).await.unwrap();
        let error = rows.collect().await.unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("hush"), "{error}");
    }
    let error = opened(folder.path(), &["absent"]).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("has no table `absent`"), "{error}");
    std::fs::write(folder.path().join("notes.db"), "no database at all, but a text").unwrap();
    let error = opened(folder.path(), &["notes"]).await.err().unwrap();
    assert!(error.to_string().contains("cannot be read as an SQLite database"), "{error}");
}
