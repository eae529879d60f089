//! Several files of one table.

use super::{Table, corpus, notes, refused, written};

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_columns() {
    let mut table = Table::default();
    let sql = r#"{"sql": "SELECT id AS note_id, title || ' ' || coalesce(lang, 'none') AS title FROM notes"}"#;
    for format in ["csv", "tsv", "jsonl", "json", "parquet", "arrow", "avro"] {
        let file = |lang: &str| format!("d/lang={lang}/n.{format}");
        let mut corpus = corpus("d", sql)
            .write(&file("pt%2DBR"), written(format, &[(1, "a")]))
            .write(&file("007"), written(format, &[(2, "b"), (3, "c")]))
            .write(&file("__HIVE_DEFAULT_PARTITION__"), written(format, &[(4, "d")]));
        let all = [("i:1", "a pt-BR"), ("i:2", "b 007"), ("i:3", "c 007"), ("i:4", "d none")];
        table.see(format, &mut corpus, &notes(&all)).await;
        corpus.options.tables[0].uri = "d/lang=007".into();
        corpus.options.sql = "SELECT id AS note_id, title FROM notes".into();
        table.see(format, &mut corpus, &notes(&[("i:2", "b"), ("i:3", "c")])).await;
        let mut corpus = super::corpus("d", "{}")
            .write(&format!("d/title=x/n.{format}"), written(format, &[(1, "own")]));
        table.see(format, &mut corpus, &notes(&[("i:1", "own")])).await;
        assert!(format!("{:?}", corpus.reporter.events()).contains("name a column `title`"));
    }
    table.end(7 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_files_of_one_table_may_have_other_fields() {
    let mut table = Table::default();
    let mut corpus = corpus("d", "{}")
        .write("d/a.jsonl", "{\"id\": 1, \"title\": \"a\"}\n")
        .write("d/b.json", "[{\"id\": 2, \"more\": 1}]\n");
    table.see("other fields", &mut corpus, &notes(&[("i:1", "a"), ("i:2", "none")])).await;
    let mut corpus = super::corpus("d", "{}")
        .write("d/a.jsonl", "{\"id\": 1, \"title\": \"SECRET\"}\n")
        .write("d/b.json", "[{\"id\": 2, \"title\": 3}]\n");
    let said = ["field `title`", "a.jsonl line 1", "b.json line 1"];
    table.see("other types", &mut corpus, &refused(&said)).await;
    table.end(2);
}
