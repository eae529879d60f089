//! Types of columns: declared, kept from the newest snapshot, or found; nothing merged and nothing respelled in silence.

use std::collections::BTreeMap;

use scalingnote::corpus::{ColumnType, Earlier, SourceTypes, TypeRule};
use scalingnote::error::ErrorKind;
use scalingnote::types::NoteId;

use super::Corpus;
use crate::house::hostile::targets::files;

const SQL: &str = "SELECT id AS note_id, title, v AS body FROM notes";

pub(super) fn exact(name: &str, sql: &str, bytes: &str) -> Corpus {
    let mut corpus = Corpus::new(name, sql).write(name, bytes);
    corpus.options.types = TypeRule::Exact;
    corpus
}

fn declare(corpus: &mut Corpus, declared: &[(&str, serde_json::Value)]) {
    for (name, of) in declared {
        let of: ColumnType = serde_json::from_value(of.clone()).unwrap();
        corpus.options.tables[0].schema.insert((*name).to_owned(), of);
    }
}

pub(super) fn warnings(corpus: &Corpus) -> String {
    format!("{:?}", corpus.reporter.events())
}

fn texts(found: &[(String, String)]) -> Vec<(&str, &str)> {
    found.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect()
}

#[tokio::test]
async fn ids_and_versions_stay_as_the_file_writes_them() {
    let csv = "id,title,v\n007,a,1.10\n7,b,1.1\n0007,c,2\n";
    let sql = "SELECT id AS note_id, title, v FROM notes";
    let mut corpus = exact("n.csv", sql, csv);
    corpus.options.template = "{{ title }} v{{ v }}".into();
    let found = corpus.texts().await;
    assert_eq!(texts(&found), [("s:0007", "c v2"), ("s:007", "a v1.10"), ("s:7", "b v1.1")]);
    assert!(!warnings(&corpus).contains("Warning"), "{}", warnings(&corpus));

    // Version 1 reads on as it did, and says what it does.
    corpus.options.types = TypeRule::Guessed;
    let found = corpus.texts().await;
    assert_eq!(found.len(), 1, "{found:?}");
    let said = warnings(&corpus);
    for words in ["column `id`", "column `v`", "n.csv line 2", "schema = { id = \\\"string\\\" }"] {
        assert!(said.contains(words), "{words}: {said}");
    }

    // What the warning says works.
    declare(&mut corpus, &[("id", "string".into()), ("v", "string".into())]);
    let found = corpus.texts().await;
    assert_eq!(texts(&found), [("s:0007", "c v2"), ("s:007", "a v1.10"), ("s:7", "b v1.1")]);
}

#[tokio::test]
async fn one_fraction_does_not_respell_the_whole_numbers() {
    let sql = "SELECT id AS note_id, title, v FROM notes";
    for (name, rows) in [
        ("n.csv", "id,title,v\n1,a,2\n2,b,2.5\n"),
        ("n.jsonl", "{\"id\":1,\"title\":\"a\",\"v\":2}\n{\"id\":2,\"title\":\"b\",\"v\":2.5}\n"),
    ] {
        let mut corpus = exact(name, sql, rows);
        corpus.options.template = "{{ title }} v{{ v }}".into();
        let found = corpus.texts().await;
        assert_eq!(texts(&found), [("i:1", "a v2"), ("i:2", "b v2.5")], "{name}");
        corpus.options.types = TypeRule::Guessed;
        let found = corpus.texts().await;
        assert_eq!(texts(&found), [("i:1", "a v2.0"), ("i:2", "b v2.5")], "{name}");
        assert!(warnings(&corpus).contains("column `v`"), "{name}");
    }
}

#[tokio::test]
async fn numbers_beyond_64_bits_keep_their_digits() {
    let rows = "{\"id\":18446744073709551615,\"title\":\"a\"}\n{\"id\":18446744073709551614,\"title\":\"b\"}\n";
    let sql = "SELECT id AS note_id, title FROM notes";
    let mut corpus = exact("n.jsonl", sql, rows);
    let ids = [("s:18446744073709551614", "b"), ("s:18446744073709551615", "a")];
    assert_eq!(texts(&corpus.texts().await), ids);
    corpus.options.types = TypeRule::Guessed;
    let error = corpus.fails().await;
    assert!(error.to_string().contains("schema = { id = \"string\" }"), "{error}");
    declare(&mut corpus, &[("id", "string".into())]);
    assert_eq!(texts(&corpus.texts().await), ids);
    let csv = exact("n.csv", sql, "id,title\n18446744073709551615,a\n18446744073709551614,b\n");
    assert_eq!(texts(&csv.texts().await), ids);
}

#[tokio::test]
async fn declared_types_hold_before_a_value_is_read() {
    let sql = "SELECT id AS note_id, title, concat_ws('|', arrow_typeof(n), CAST(n AS VARCHAR), \
               CAST(d AS VARCHAR), CAST(t AS VARCHAR), CAST(b AS VARCHAR)) AS body FROM notes";
    let csv = "id,title,n,d,t,b\n1,a,007,2024-10-01,09/01/2024,TRUE\n2,b,,,,0\n";
    let json = "{\"id\":1,\"title\":\"a\",\"n\":\"007\",\"d\":\"2024-10-01\",\"t\":\"09/01/2024\",\"b\":true}\n\
                {\"id\":2,\"title\":\"b\",\"n\":null,\"b\":0}\n";
    for (name, rows) in [("n.csv", csv), ("n.jsonl", json)] {
        for rule in [TypeRule::Exact, TypeRule::Guessed] {
            let mut corpus = exact(name, sql, rows);
            corpus.options.types = rule;
            let time = serde_json::json!({"timestamp": "%m/%d/%Y"});
            declare(
                &mut corpus,
                &[
                    ("id", "string".into()),
                    ("n", "integer".into()),
                    ("d", "date".into()),
                    ("t", time),
                    ("b", "boolean".into()),
                ],
            );
            let found = corpus.texts().await;
            let first = "a\nInt64|7|2024-10-01|2024-09-01T00:00:00|true";
            assert_eq!(texts(&found), [("s:1", first), ("s:2", "b\nInt64|false")], "{name}");
        }
    }
}

#[tokio::test]
async fn a_value_that_is_not_of_its_declared_type_is_counted_with_its_place() {
    for (name, rows) in [
        ("n.csv", "id,title,v\n1,a,x\n2,b,3\n"),
        ("n.jsonl", "{\"id\":1,\"title\":\"a\",\"v\":\"x\"}\n{\"id\":2,\"title\":\"b\",\"v\":3}\n"),
    ] {
        let mut corpus = exact(name, "SELECT id AS note_id, title FROM notes", rows);
        declare(&mut corpus, &[("v", "integer".into())]);
        let error = corpus.fails().await;
        assert_eq!(error.kind(), ErrorKind::Input);
        let line = if name == "n.csv" { "line 2" } else { "line 1" };
        for words in [name, line, "`v`", "not of the declared type", "max_rejected"] {
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
        corpus.options.max_rejected = 1;
        let (outcome, rows) = corpus.rows().await;
        assert_eq!((rows.len(), outcome.rejections.total()), (1, 1), "{name}");
        assert!(outcome.rejections.samples[0].contains(line), "{:?}", outcome.rejections);
        // Declaring a column that is not there is a slip of the pen; a field may be in no row of a day.
        declare(&mut corpus, &[("vv", "integer".into())]);
        if name == "n.jsonl" {
            corpus.options.sql = "SELECT id AS note_id, title, vv FROM notes".into();
            corpus.options.template = "{{ title }}{{ vv }}".into();
            assert_eq!(corpus.texts().await.len(), 1);
            assert!(warnings(&corpus).contains("field `vv`"), "{}", warnings(&corpus));
            continue;
        }
        let error = corpus.fails().await;
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("`vv`") && error.to_string().contains("`v`"), "{error}");
        // Without a header the first line is a note, whose text no error repeats.
        let text = "1,a secret text; it goes on and on,v\n2,b,3\n";
        let mut corpus = exact(name, "SELECT 1 AS note_id", text);
        declare(&mut corpus, &[("vv", "integer".into())]);
        let error = corpus.fails().await.to_string();
        assert!(error.contains("`vv`") && !error.contains("secret"), "{error}");
    }
}

pub(super) fn earlier(columns: &[(&str, &str)], note: Option<NoteId>) -> Option<Earlier> {
    let columns = columns.iter().map(|(name, of)| ((*name).to_owned(), (*of).to_owned()));
    let tables = BTreeMap::from([("notes".to_owned(), columns.collect())]);
    Some(Earlier { types: Some(SourceTypes { tables }), note })
}

#[tokio::test]
async fn a_column_keeps_the_type_of_the_newest_snapshot() {
    let sql = "SELECT id AS note_id, title, v FROM notes";
    let csv = "id,title,v\n1,a,2\n2,b,2.5\n";
    let mut corpus = exact("n.csv", sql, csv);
    corpus.options.template = "{{ title }} v{{ v }}".into();
    let (outcome, _) = corpus.rows().await;
    let types = &outcome.types.tables["notes"];
    assert_eq!((types["id"].as_str(), types["v"].as_str()), ("integer", "string"));

    corpus.earlier = earlier(&[("id", "integer"), ("v", "integer")], Some(NoteId::Int(1)));
    let error = corpus.fails().await;
    for words in ["column `v`", "n.csv line 3", "was integer", "schema = { v = \"string\" }"] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    let mut followed = exact("n.csv", sql, csv);
    followed.earlier = corpus.earlier.clone();
    followed.options.template = corpus.options.template.clone();
    declare(&mut followed, &[("v", "string".into())]);
    assert_eq!(texts(&followed.texts().await), [("i:1", "a v2"), ("i:2", "b v2.5")]);

    // What nobody reads stands in nobody's way.
    corpus.options.sql = "SELECT id AS note_id, title FROM notes".into();
    corpus.options.template = "{{ title }}".into();
    assert_eq!(corpus.texts().await.len(), 2);

    // Text has room for numbers: nothing is printed otherwise.
    let mut text = exact("n.csv", sql, "id,title,v\n1,a,2\n");
    text.options.template = "{{ title }} v{{ v }}".into();
    text.earlier = earlier(&[("v", "string")], None);
    let (outcome, rows) = text.rows().await;
    assert_eq!(
        (rows[0].text.as_str(), outcome.types.tables["notes"]["v"].as_str()),
        ("a v2", "string")
    );

    // A column without a value has any type.
    let mut empty = exact("n.csv", sql, "id,title,v\n1,a,\n");
    empty.options.template = "{{ title }} v{{ v }}".into();
    empty.earlier = earlier(&[("v", "integer")], None);
    let (outcome, _) = empty.rows().await;
    assert_eq!(outcome.types.tables["notes"]["v"], "integer");
}

#[tokio::test]
async fn ids_are_brought_to_the_type_of_the_newest_snapshot() {
    let sql = "SELECT id AS note_id, title FROM notes";
    let note = |id: &str| Some(id.parse::<NoteId>().unwrap());
    let mut corpus = exact("n.csv", sql, "id,title\n7,a\n8,b\n");
    assert_eq!(texts(&corpus.texts().await), [("i:7", "a"), ("i:8", "b")]);
    corpus.earlier = earlier(&[], note("s:A7"));
    assert_eq!(texts(&corpus.texts().await), [("s:7", "a"), ("s:8", "b")]);

    let mut corpus = exact("n.jsonl", sql, "{\"id\":\"7\",\"title\":\"a\"}\n");
    corpus.earlier = earlier(&[], note("i:3"));
    assert_eq!(texts(&corpus.texts().await), [("i:7", "a")]);
    let mut corpus = exact("n.jsonl", sql, "{\"id\":\"A7\",\"title\":\"a\"}\n");
    corpus.earlier = earlier(&[], note("i:3"));
    let error = corpus.fails().await;
    assert!(
        error.to_string().contains("`s:A7`") && error.to_string().contains("integer"),
        "{error}"
    );
    corpus.options.types = TypeRule::Guessed;
    assert_eq!(texts(&corpus.texts().await), [("s:A7", "a")], "version 1 leaves it to the plan");
}

#[tokio::test]
async fn mixed_json_types_are_refused_where_they_are_read() {
    let rows = "{\"id\":7,\"title\":\"a\",\"v\":1}\n\n{\"id\":\"7\",\"title\":\"b\",\"v\":[1]}\n";
    for rule in [TypeRule::Exact, TypeRule::Guessed] {
        let mut corpus = exact("n.jsonl", "SELECT id AS note_id, title FROM notes", rows);
        corpus.options.types = rule;
        let error = corpus.fails().await;
        for words in [
            "field `id`",
            "a number in",
            "a string in",
            "n.jsonl line 1",
            "n.jsonl line 3",
            "id = \"string\"",
        ] {
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
        declare(&mut corpus, &[("id", "string".into())]);
        assert_eq!(corpus.texts().await.len(), 1, "they are one kind of text then");
        corpus.options.sql = SQL.into();
        let error = corpus.fails().await;
        assert!(error.to_string().contains("a list in"), "{error}");
    }
}

#[tokio::test]
async fn declared_types_of_files_with_types() {
    use arrow::array::{Int32Array, StringArray};
    use std::sync::Arc;
    let batch = arrow::array::RecordBatch::try_from_iter([
        ("id", Arc::new(Int32Array::from(vec![7])) as arrow::array::ArrayRef),
        ("title", Arc::new(StringArray::from(vec!["12"])) as _),
    ])
    .unwrap();
    let bytes = files::parquet(&batch);
    let mut corpus = Corpus::new("n.parquet", "SELECT id AS note_id, title FROM notes")
        .write("n.parquet", &bytes);
    declare(&mut corpus, &[("id", "string".into())]);
    assert_eq!(texts(&corpus.texts().await), [("s:7", "12")]);
    declare(&mut corpus, &[("title", serde_json::json!({"timestamp": "%Y"}))]);
    let error = corpus.fails().await;
    assert!(error.to_string().contains("column `title`"), "{error}");
    // A type that changes is refused, and a declaration settles it.
    let mut corpus = Corpus::new("n.parquet", "SELECT id AS note_id, title FROM notes")
        .write("n.parquet", &bytes);
    corpus.options.types = TypeRule::Exact;
    corpus.earlier = earlier(&[("id", "string")], None);
    let error = corpus.fails().await;
    for words in ["column `id`", "is integer now", "was string", "id = \"string\""] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    declare(&mut corpus, &[("id", "string".into())]);
    assert_eq!(texts(&corpus.texts().await), [("s:7", "12")]);
}

#[tokio::test]
async fn folders_give_columns_to_every_format() {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use std::sync::Arc;
    let sql = "SELECT id AS note_id, lang AS title, concat_ws('/', day, arrow_typeof(day)) AS body FROM notes \
               WHERE lang IS NULL OR lang <> 'xx'";
    let parquet = |id: i64| {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![id])) as ArrayRef),
            ("day", Arc::new(StringArray::from(vec!["own"])) as _),
        ])
        .unwrap();
        files::parquet(&batch)
    };
    let json = |id: i64| format!("{{\"id\":{id},\"day\":\"own\"}}\n").into_bytes();
    let csv = |id: i64| format!("day,id\nown,{id}\n").into_bytes();
    for ending in ["parquet", "jsonl", "csv"] {
        let bytes = |id: i64| match ending {
            "parquet" => parquet(id),
            "jsonl" => json(id),
            _ => csv(id),
        };
        let mut corpus = Corpus::new("d", sql)
            .write(&format!("d/lang=en/day=1/a.{ending}"), bytes(1))
            .write(&format!("d/lang=__HIVE_DEFAULT_PARTITION__/day=2/a.{ending}"), bytes(2))
            .write(&format!("d/lang=xx/day=2/a.{ending}"), bytes(3));
        let found = corpus.texts().await;
        let own = "own/Utf8";
        assert_eq!(texts(&found), [("i:1", &*format!("en\n{own}")), ("i:2", own)], "{ending}");
        assert!(warnings(&corpus).contains("name a column `day`"), "{ending}");
        corpus.options.sql =
            "SELECT id AS note_id, coalesce(lang, 'none') AS title FROM notes".into();
        let found = corpus.texts().await;
        assert_eq!(texts(&found)[0], ("i:1", "en"), "{ending}");
    }
}
