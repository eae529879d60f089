//! Tables that the `deltalake` package wrote, day after day.

use std::path::PathBuf;

use scalingnote::corpus::TableFormat;
use scalingnote::error::ErrorKind;

use super::super::Corpus;
use crate::fixture::checkout::package;
use crate::fixture::place::Place;
use crate::fixture::python;
use crate::fixture::support::roots_of_the_environment;

/// The Python that writes Delta tables.
pub(super) struct Lake(PathBuf);

impl Lake {
    pub(super) fn here() -> Option<Self> {
        python::with("deltalake, pyarrow").map(Self)
    }

    /// Takes a step of tests/python/delta_tables.py; gives the version that the table has then.
    #[track_caller]
    pub(super) fn step(&self, table: &str, step: &str) -> u64 {
        let script = package().join("tests/python/delta_tables.py");
        let said = python::run(&self.0, &script, &[table, step], "");
        said.trim().parse().expect("a version")
    }
}

fn corpus(uri: &str, sql: &str) -> Corpus {
    let mut corpus = Corpus::new(uri, sql);
    corpus.options.tables[0].format = Some(TableFormat::Delta);
    corpus.options.template = "{{ body }} ({{ lang }})".to_owned();
    corpus
}

async fn texts(corpus: &Corpus) -> Vec<String> {
    corpus.texts().await.into_iter().map(|(id, text)| format!("{id} {text}")).collect()
}

const SQL: &str = "SELECT id AS note_id, body, lang FROM notes";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_as_it_was_at_one_version() {
    let Some(lake) = Lake::here() else { return };
    let mut corpus = corpus("notes", SQL);
    let table = corpus.dir.path().join("notes").to_str().unwrap().to_owned();
    let first = [
        "i:1 note 1 in edition 1 (en)",
        "i:2 note 2 in edition 1 (en)",
        "i:3 note 3 in edition 1 (zh)",
    ];
    let edited = [
        "i:2 note 2 in edition 2 (en)",
        "i:3 note 3 in edition 1 (zh)",
        "i:4 note 4 in edition 1 (en)",
    ];
    lake.step(&table, "new");
    assert_eq!(texts(&corpus).await, first);
    for step in ["append", "edit", "delete"] {
        lake.step(&table, step);
    }
    let (outcome, _) = corpus.rows().await;
    let input = &outcome.inputs[0];
    assert_eq!((outcome.inputs.len(), input.version), (1, Some(3)));
    assert!(input.size > 0 && input.uri.ends_with("/notes/"), "{input:?}");
    assert_eq!(texts(&corpus).await, edited);
    // A column that came later is null before.
    corpus.options.sql =
        "SELECT id AS note_id, body, coalesce(stars, 0) AS lang FROM notes".to_owned();
    assert_eq!(
        texts(&corpus).await[1..],
        ["i:3 note 3 in edition 1 (0)", "i:4 note 4 in edition 1 (5)"]
    );
    corpus.options.sql = SQL.to_owned();
    let version = lake.step(&table, "compact");
    assert_eq!(texts(&corpus).await, edited);
    corpus.options.tables[0].version = Some(0);
    assert_eq!(texts(&corpus).await, first);
    lake.step(&table, "vacuum");
    let error = corpus.fails().await;
    assert!(!error.is_retryable(), "{error}");
    corpus.options.tables[0].version = Some(version + 100);
    let error = corpus.fails().await;
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    corpus.options.tables[0].version = None;
    assert_eq!(texts(&corpus).await, edited);
    corpus.options.tables[0].format = None;
    let error = corpus.fails().await;
    assert!(error.to_string().contains("format = \"delta\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_deletion_vector_takes_are_gone() {
    let Some(lake) = Lake::here() else { return };
    let mut corpus = corpus("notes", SQL);
    let table = corpus.dir.path().join("notes").to_str().unwrap().to_owned();
    lake.step(&table, "deleted");
    let read: Vec<String> = corpus.texts().await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(read, ["i:0", "i:1", "i:2", "i:4", "i:5", "i:6", "i:8", "i:9"]);
    corpus.options.sql += " WHERE id >= 3 AND id < 8";
    let read: Vec<String> = corpus.texts().await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(read, ["i:4", "i:5", "i:6"]);
}

#[test]
fn plan_manifest_and_show_name_the_version() {
    let Some(lake) = Lake::here() else { return };
    let place = Place::new();
    place.write(
        "p.toml",
        r#"version = 2
[corpus]
sql = "SELECT id AS note_id, body, lang FROM notes"
template = "{{ body }}"
stored_columns = ["lang"]
[[corpus.tables]]
name = "notes"
uri = "notes"
format = "delta"
[tower]
model = "fake:16"
pooling = "mean"
[publish]
root = "root"
"#,
    );
    let table = place.path("notes").to_str().unwrap().to_owned();
    lake.step(&table, "new");
    let plan = place.json(0, "plan p.toml --json");
    assert_eq!(plan["tables"][0]["version"], 0, "{plan}");
    place.says(0, "plan p.toml", &["table notes: version 0 of a Delta table, in 2 files"]);
    place.expect(0, "run p.toml --quiet");
    place.says(
        0,
        "snapshot show root",
        &["notes: version 0 of a Delta table, in 2 files (file:///"],
    );
    for step in ["append", "edit", "delete"] {
        lake.step(&table, step);
    }
    place.expect(0, "run p.toml --quiet");
    let shown = place.json(0, "snapshot show root --json");
    let inputs = &shown["provenance"]["inputs"];
    assert_eq!((&inputs[0]["version"], &inputs[0]["table"]), (&3.into(), &"notes".into()));
    assert_eq!(shown["content"]["notes"], 3);
    // The version of the first day is another corpus: it brings a note back, and takes one away.
    place.expect(0, "run p.toml --quiet --set corpus.tables.0.version=0");
    place.says(0, "snapshot show root", &["version 0 of a Delta table"]);
    place.says(0, "snapshot diff root 2 --notes", &["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_a_bucket_is_read_like_one_in_a_folder() {
    let Some(lake) = Lake::here() else { return };
    for root in roots_of_the_environment().into_iter().filter(|root| root.starts_with("s3://")) {
        let uri = format!("{root}/lake-{}/my notes", std::process::id());
        lake.step(&uri, "new");
        let corpus = corpus(&uri.replace(' ', "%20"), SQL);
        lake.step(&uri, "append");
        let (outcome, rows) = corpus.rows().await;
        assert_eq!((outcome.inputs[0].version, rows.len()), (Some(1), 4));
        assert_eq!(outcome.inputs[0].uri, format!("{}/", uri.replace(' ', "%20")));
    }
}
