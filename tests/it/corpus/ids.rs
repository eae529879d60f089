//! Ids that are rejected, refused or doubted are named with their file, row and column.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use scalingnote::corpus::TypeRule;
use scalingnote::types::NoteId;

use super::Corpus;
use super::types::{earlier, exact, warnings};
use crate::house::hostile::targets::files::{ipc, parquet};

/// A table of files with these ids; the query takes all rows but the second of each.
fn files(ending: &str, ids: [&[Option<&str>]; 2]) -> Corpus {
    let mut corpus =
        Corpus::new("d", "SELECT \"ID\" AS note_id, title FROM notes WHERE title <> 'no'");
    corpus.options.types = TypeRule::Exact;
    for (at, ids) in ids.iter().enumerate() {
        let titles = (0..ids.len()).map(|row| if row == 1 { "no" } else { "yes" });
        let bytes = match ending {
            "jsonl" => {
                let row = |(id, title)| serde_json::json!({"ID": id, "title": title}).to_string();
                let lines: Vec<String> = ids.iter().zip(titles).map(row).collect();
                lines.join("\n").into_bytes()
            }
            _ => {
                let columns: [(_, ArrayRef); 2] = [
                    ("ID", Arc::new(StringArray::from(ids.to_vec()))),
                    ("title", Arc::new(StringArray::from_iter_values(titles))),
                ];
                let batch = RecordBatch::try_from_iter_with_nullable(
                    columns.map(|(name, column)| (name, column, true)),
                );
                let batch = batch.unwrap();
                if ending == "arrow" { ipc(&batch) } else { parquet(&batch) }
            }
        };
        corpus = corpus.write(&format!("d/{at}.{ending}"), bytes);
    }
    corpus
}

#[tokio::test]
async fn an_id_that_breaks_the_type_of_the_newest_snapshot_is_named_with_its_row() {
    for ending in ["jsonl", "parquet", "arrow"] {
        let (one, two) = ([Some("1"), Some("A1")], [Some("2"), Some("A2"), Some("007")]);
        let mut corpus = files(ending, [&one, &two]);
        corpus.earlier = earlier(&[], Some(NoteId::Int(3)));
        let error = corpus.fails().await.to_string();
        let place = format!("d/1.{ending} row 3: column `ID`: note_id is an integer");
        assert!(error.contains(&place) && error.contains("`s:007`"), "{error}");
    }
}

#[tokio::test]
async fn rows_without_an_id_are_named() {
    for ending in ["jsonl", "parquet", "arrow"] {
        let (one, two) = ([None, None, Some("1")], [Some("2"), None, Some(""), None]);
        let mut corpus = files(ending, [&one, &two]);
        let error = corpus.fails().await.to_string();
        corpus.options.max_rejected = 3;
        let rejections = corpus.prepare().await.unwrap().rejections;
        for place in [
            format!("d/0.{ending} row 1: column `ID`: null note_id"),
            format!("d/1.{ending} row 4: column `ID`: null note_id"),
            format!("d/1.{ending} row 3: column `ID`: empty note_id"),
        ] {
            assert!(error.contains(&place), "{place}: {error}");
            let named = rejections.samples.iter().filter(|sample| sample.ends_with(&place));
            assert_eq!(named.count(), 1, "{:?}", rejections.samples);
        }
        assert_eq!(rejections.samples.len(), 3, "{:?}", rejections.samples);
    }
    // Rows of a join are not those of a file.
    let sql = "SELECT a.id AS note_id, a.title FROM notes a JOIN notes b ON a.title = b.title";
    let mut joined = exact("n.csv", sql, "id,title\n,a\n");
    joined.options.max_rejected = 1;
    assert_eq!(joined.prepare().await.unwrap().rejections.samples, ["null note_id"]);
    // Rows that cannot be read count.
    let mut csv =
        exact("n.csv", "SELECT id AS note_id, title FROM notes", "id,title\n1\n7,a\n2\n,b\n");
    csv.options.max_rejected = 3;
    let samples = csv.prepare().await.unwrap().rejections.samples;
    assert!(
        samples.iter().any(|sample| sample.contains("n.csv row 4: column `id`")),
        "{samples:?}"
    );
}

#[tokio::test]
async fn ids_that_a_spreadsheet_rounded_are_warned_of() {
    let sql = "SELECT id AS note_id, title FROM notes";
    let rows = "id,title\n1.23457E+12,a\n9E+15,b\n1E5,c\nE+12,d\n12.5E+12,e\nA1.2E+3,f\n";
    let mut corpus =
        Corpus::new("d", sql).write("d/n.csv", rows).write("d/m.csv", "id,title\n8,g\n1.5E+9,h\n");
    corpus.options.types = TypeRule::Exact;
    assert_eq!(corpus.texts().await.len(), 8);
    let said = warnings(&corpus);
    for part in [
        "n.csv: column `id`: 2 note ids look like numbers that a spreadsheet rounded, e.g. `1.23457E+12` in row 1",
        "m.csv: column `id`: 1 note id looks like a number that a spreadsheet rounded, e.g. `1.5E+9` in row 2",
        "format the column as text",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches("rounded").count(), 2, "once a file: {said}");
    let grouped =
        exact("n.csv", "SELECT id AS note_id, max(title) AS title FROM notes GROUP BY id", rows);
    grouped.texts().await;
    assert!(warnings(&grouped).contains("2 note ids look like numbers"), "{}", warnings(&grouped));
    let whole = exact("n.csv", sql, "id,title\nA7,a\n7,b\n");
    whole.texts().await;
    assert!(!warnings(&whole).contains("rounded"));
}
