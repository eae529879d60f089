//! Tables of PostgreSQL, MariaDB and SQLite. Servers are those that tests/python/sources.py starts; without one its tests
//! are skipped.

use mysql_async::prelude::Queryable;
use scalingnote::corpus::{TableFormat, TableOptions};
use scalingnote::error::ErrorKind;
use tokio_postgres::{Client, NoTls};

use super::super::Corpus;
use crate::fixture::place::Place;

const SQL: &str = "SELECT id AS note_id, title, body, topics, at AS updated_at, deleted FROM notes WHERE lang = 'en' \
                   AND at >= TIMESTAMP '2024-01-01 00:00:00'";

/// What a server's tests need of the environment.
pub(super) fn server(variable: &str) -> Option<String> {
    let uri = std::env::var(variable).ok();
    if uri.is_none() {
        println!("skipped: {variable} names no server (`make test-sources` starts one)");
    }
    uri
}

fn corpus(uri: &str, table: &str, format: TableFormat) -> Corpus {
    let mut corpus = Corpus::new(uri, SQL);
    corpus.options.template = "{{ title }}|{{ body }}|{{ topics | join('+') }}".to_owned();
    let options: &mut TableOptions = &mut corpus.options.tables[0];
    (options.format, options.table) = (Some(format), Some(table.to_owned()));
    corpus
}

async fn texts(corpus: &Corpus) -> Vec<String> {
    corpus.texts().await.into_iter().map(|(id, text)| format!("{id} {text}")).collect()
}

pub(super) async fn postgres(uri: &str) -> Client {
    let env = |name: &str| std::env::var(name).expect("sources.py sets it");
    let uri = uri.replace("://", &format!("://{}:{}@", env("PGUSER"), env("PGPASSWORD")));
    let (client, connection) = tokio_postgres::connect(&uri, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_postgresql() {
    let Some(uri) = server("SCALINGNOTE_TEST_POSTGRES") else { return };
    let writer = postgres(&uri).await;
    let sql = r#"DROP SCHEMA IF EXISTS "My Blog" CASCADE; CREATE SCHEMA "My Blog";
        CREATE TYPE "My Blog".tongue AS ENUM ('en', 'zh');
        CREATE TABLE "My Blog".notes (id bigint PRIMARY KEY, title varchar(80), body text, topics text[], at timestamptz,
            deleted bool, lang "My Blog".tongue, price numeric(10, 2), extra jsonb, gone int);
        ALTER TABLE "My Blog".notes DROP COLUMN gone;
        INSERT INTO "My Blog".notes VALUES
            (1, 'It''s a \ title', E'two\nlines', '{cats,"big, dogs"}', '2024-10-01 14:00+02', false, 'en', 12.50, '{"a": 1}'),
            (2, NULL, '李雷', NULL, '2024-10-02', NULL, 'en', NULL, NULL),
            (3, 'old', 'old', NULL, '2023-10-02', NULL, 'en', NULL, NULL),
            (4, 'gone', 'gone', NULL, '2024-10-02', true, 'en', NULL, NULL),
            (5, 'other', 'other', NULL, '2024-10-02', NULL, 'zh', NULL, NULL)"#;
    writer.batch_execute(sql).await.unwrap();
    let mut corpus = corpus(&uri, "My Blog.notes", TableFormat::Postgres);
    let expected = ["i:1 It's a \\ title|two\nlines|cats+big, dogs", "i:2 |李雷|"];
    assert_eq!(texts(&corpus).await, expected);
    let (outcome, _) = corpus.rows().await;
    let input = &outcome.inputs[0];
    assert_eq!(input.uri, format!("{uri}#My Blog.notes"));
    let read = "one statement, in a repeatable-read snapshot of PostgreSQL";
    assert_eq!(input.read.as_deref(), Some(read));
    // The server's own word for what it was asked: filters and columns are in the statement, which comes once.
    let log = std::env::var("SCALINGNOTE_TEST_POSTGRES_LOG").expect("sources.py sets it");
    let log = std::fs::read_to_string(log).unwrap();
    let asked = "FROM \"My Blog\".\"notes\" WHERE \"at\" >= '2024-01-01T00:00:00'";
    assert_eq!(log.matches(asked).count(), 2, "a statement each time\n{log}");
    corpus.options.sql =
        "SELECT id AS note_id, CAST(price AS VARCHAR) AS title, extra AS body, topics FROM notes \
                          WHERE id = 1"
            .to_owned();
    assert_eq!(texts(&corpus).await, ["i:1 12.50|{\"a\": 1}|cats+big, dogs"]);
    // Two readers of one snapshot: a table that is read beside itself, with the rows counted before.
    corpus.shards = None;
    corpus.options.sql = "SELECT a.id AS note_id, b.title, a.body, a.topics FROM notes a JOIN notes b ON a.id = b.id \
                          WHERE a.lang = 'zh'"
        .to_owned();
    assert_eq!(texts(&corpus).await, ["i:5 other|other|"]);
    corpus.options.tables[0].table = Some("nowhere".to_owned());
    let error = corpus.fails().await;
    assert!(error.to_string().contains("has no table `nowhere`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_mariadb() {
    let Some(uri) = server("SCALINGNOTE_TEST_MYSQL") else { return };
    let env = |name: &str| std::env::var(name).expect("sources.py sets it");
    let full = uri.replace("://", &format!("://{}:{}@", env("MYSQL_USER"), env("MYSQL_PASSWORD")));
    let mut writer = mysql_async::Conn::from_url(full).await.unwrap();
    for sql in [
        "DROP TABLE IF EXISTS notes",
        "CREATE TABLE notes (id int PRIMARY KEY, title varchar(80), body longtext, topics varchar(80), at datetime(6), \
         deleted boolean, lang varchar(2) COLLATE utf8mb4_general_ci, price decimal(10, 2), data blob) ENGINE = InnoDB",
        r#"INSERT INTO notes VALUES
            (1, 'It''s a \\ "title"', 'two\nlines', 'cats', '2024-10-01 12:00:00.25', false, 'en', 12.50, x'00ff'),
            (2, NULL, '李雷', NULL, '2024-10-02', NULL, 'EN', NULL, NULL),
            (3, 'old', 'old', NULL, '2023-10-02', NULL, 'en', NULL, NULL),
            (4, 'gone', 'gone', NULL, '2024-10-02', true, 'en', NULL, NULL)"#,
    ] {
        writer.query_drop(sql).await.unwrap();
    }
    let mut corpus = corpus(&uri, "notes", TableFormat::Mysql);
    // Its collation finds `EN` equal to `en`; this program does not.
    assert_eq!(texts(&corpus).await, ["i:1 It's a \\ \"title\"|two\nlines|cats"]);
    let (outcome, _) = corpus.rows().await;
    let read = outcome.inputs[0].read.as_deref();
    assert_eq!(read, Some("one statement, in a repeatable-read snapshot of InnoDB"));
    corpus.options.sql =
        r#"SELECT id AS note_id, CAST(price AS VARCHAR) AS title, data AS body, topics FROM notes
                            WHERE title = 'It''s a \ "title"'"#
            .to_owned();
    assert_eq!(texts(&corpus).await, ["i:1 12.50|00FF|cats"]);
    writer.query_drop("ALTER TABLE notes ENGINE = MyISAM").await.unwrap();
    let (outcome, _) = corpus.rows().await;
    let read = outcome.inputs[0].read.as_deref();
    assert_eq!(read, Some("one statement; MyISAM has no snapshots"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_is_told_so_without_the_password() {
    for (variable, user, password, format) in [
        ("SCALINGNOTE_TEST_POSTGRES", "PGUSER", "PGPASSWORD", "postgres"),
        ("SCALINGNOTE_TEST_MYSQL", "MYSQL_USER", "MYSQL_PASSWORD", "mysql"),
    ] {
        let Some(uri) = server(variable) else { continue };
        let place = Place::new();
        let file = format!(
            "version = 2\n[corpus]\nsql = \"SELECT id AS note_id, body FROM notes\"\ntemplate = \"{{{{ body }}}}\"\n\
             [[corpus.tables]]\nname = \"notes\"\nuri = \"{uri}\"\nformat = \"{format}\"\n[tower]\nmodel = \"fake:16\"\n\
             pooling = \"mean\"\n[publish]\nroot = \"root\"\n"
        );
        place.write("p.toml", file);
        for (set, code, says) in
            [(Some("hush-hush"), 2, "refuses"), (None, 2, &*format!("{user} is not set"))]
        {
            let mut command = place.command("plan p.toml");
            match set {
                Some(word) => command.env(password, word),
                None => command.env_remove(user),
            };
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(said.contains(says) && !said.contains("hush-hush"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_sqlite_with_all_that_files_have() {
    let mut corpus = corpus("notes.db", "Notes of 2024", TableFormat::Sqlite);
    let writer = rusqlite::Connection::open(corpus.dir.path().join("notes.db")).unwrap();
    let sql = r#"CREATE TABLE "Notes of 2024" (id INTEGER, title TEXT, body TEXT, topics TEXT, at TEXT, deleted BOOLEAN,
        lang TEXT);
        INSERT INTO "Notes of 2024" VALUES (1, 'older', 'a', 'x', '2024-10-01T12:00:00', 0, 'en'),
            (1, 'newer', 'a', 'x', '2024-10-03T12:00:00', 0, 'en'), (2, 'b', 'b', NULL, '2024-10-01T12:00:00', NULL, 'en'),
            (3, 'gone', 'c', NULL, '2024-10-01T12:00:00', 1, 'en'), (4, 'other', 'd', NULL, NULL, 0, 'zh')"#;
    writer.execute_batch(sql).unwrap();
    corpus.options.sql = SQL.split(" AND").next().unwrap().to_owned();
    assert_eq!(texts(&corpus).await, ["i:1 newer|a|x", "i:2 b|b|"]);
    writer.execute_batch("DROP TABLE \"Notes of 2024\"").unwrap();
    let error = corpus.fails().await;
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    corpus.options.tables[0].uri = "*.db".to_owned();
    let error = corpus.fails().await;
    assert!(error.to_string().contains("by a pattern"), "{error}");
}
