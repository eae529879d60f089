//! Tables that engines of their own read: Delta Lake, and databases. `make test-sources` builds them in, and has servers.

#[cfg(any(feature = "delta", feature = "databases"))]
mod both;
#[cfg(feature = "databases")]
mod databases;
#[cfg(feature = "delta")]
mod delta;
#[cfg(feature = "delta")]
mod feed;
#[cfg(feature = "databases")]
mod written;

use scalingnote::corpus::TableFormat;
use scalingnote::error::ErrorKind;

use super::Corpus;

#[tokio::test]
async fn what_is_not_built_in_is_named() {
    let formats = [
        (TableFormat::Delta, "delta", cfg!(feature = "delta")),
        (TableFormat::Postgres, "databases", cfg!(feature = "databases")),
        (TableFormat::Mysql, "databases", cfg!(feature = "databases")),
        (TableFormat::Sqlite, "databases", cfg!(feature = "databases")),
    ];
    for (format, feature, built) in formats {
        let mut corpus = Corpus::new("notes", "SELECT id AS note_id, body FROM notes");
        corpus.options.tables[0].format = Some(format);
        let error = corpus.fails().await;
        let names = error.to_string().contains(&format!("--features {feature}"));
        assert_eq!(names, !built, "{error}");
        assert!(built || error.kind() == ErrorKind::Unsupported, "{error}");
    }
}

#[tokio::test]
async fn options_of_files_are_not_those_of_tables() {
    let mut corpus = Corpus::new("notes.csv", "SELECT id AS note_id, body FROM notes");
    corpus = corpus.write("notes.csv", "id,body\n1,a\n");
    corpus.options.tables[0].version = Some(7);
    let error = corpus.fails().await;
    assert!(error.to_string().contains("version is for Delta tables"), "{error}");
    let table = &mut corpus.options.tables[0];
    (table.version, table.table) = (None, Some("notes".to_owned()));
    let error = corpus.fails().await;
    assert!(error.to_string().contains("table is for tables of databases"), "{error}");
    let table = &mut corpus.options.tables[0];
    (table.table, table.changed_at) = (None, Some("at".to_owned()));
    let error = corpus.fails().await;
    assert!(error.to_string().contains("changed_at is for tables of databases"), "{error}");
    let table = &mut corpus.options.tables[0];
    (table.changed_at, table.format, table.skip_rows) = (None, Some(TableFormat::Delta), 1);
    let error = corpus.fails().await;
    assert!(error.to_string().contains("skip_rows is for CSV files"), "{error}");
}
