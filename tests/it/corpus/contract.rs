//! What the query must return, and what a bad one is told.

use scalingnote::error::ErrorKind;

use super::{Corpus, int};

const CSV: &str = "id,title,likes\n1,one,10\n2,two,20\n";

async fn refused(sql: &str, change: impl FnOnce(&mut Corpus), words: &[&str]) {
    let mut corpus = Corpus::new("n.csv", sql).write("n.csv", CSV);
    change(&mut corpus);
    let error = corpus.fails().await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
    assert!(corpus.root.list("prepared").await.unwrap().is_empty(), "nothing is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_are_refused_before_reading() {
    let none = |_: &mut Corpus| {};
    refused("SELEC id FROM notes", none, &["corpus.sql", "SELEC"]).await;
    refused("SELECT id AS note_id, title FROM nots", none, &["nots"]).await;
    refused("SELECT nope FROM notes", none, &["nope"]).await;
    refused("DROP TABLE notes", none, &["corpus.sql"]).await;
    refused("COPY notes TO 'stolen.csv'", none, &["corpus.sql"]).await;
    refused("SELECT id, title FROM notes", none, &["`note_id` is missing", "`id`", "`title`"])
        .await;
    let float = "SELECT id * 1.5 AS note_id, title FROM notes";
    refused(
        float,
        none,
        &["`note_id`", "Float64", "string or an integer", "CAST(note_id AS VARCHAR)"],
    )
    .await;
    let number = "SELECT id AS note_id, likes AS title FROM notes";
    refused(number, none, &["`title`", "Int64", "a string", "CAST(likes AS VARCHAR) AS title"])
        .await;
    let twice = "SELECT a.id AS note_id, a.title, b.title FROM notes a JOIN notes b USING (id)";
    refused(twice, none, &["`title`"]).await;
    let good = "SELECT id AS note_id, title, likes FROM notes";
    let store = |c: &mut Corpus| c.options.stored_columns = vec!["like".into()];
    refused(good, store, &["`like`", "nearest is `likes`", "`note_id`, `title`, `likes`"]).await;
    let template = |c: &mut Corpus| c.options.template = "{{ titel }}".into();
    refused(good, template, &["`titel`", "nearest is `title`"]).await;
    let syntax = |c: &mut Corpus| c.options.template = "{% if %}".into();
    refused(good, syntax, &["corpus.template"]).await;
    let memory = |c: &mut Corpus| c.options.memory_limit_mib = 1;
    refused(good, memory, &["memory_limit_mib"]).await;
    refused(good, |c| c.shards = Some(0), &["shards"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_columns_change_without_the_content() {
    let sql = "SELECT id AS note_id, title, likes FROM notes";
    let prepared = async |csv: &str| {
        let mut corpus = Corpus::new("n.csv", sql).write("n.csv", csv);
        corpus.options.stored_columns = vec!["likes".into(), "title".into()];
        let (outcome, rows) = corpus.rows().await;
        let shard = outcome.shards[0].clone();
        let mut reader =
            scalingnote::corpus::PreparedReader::open(&corpus.root, &shard).await.unwrap();
        let stored = reader.next().await.unwrap().unwrap().stored;
        assert_eq!(stored.schema().field(0).name(), "likes");
        assert_eq!(stored.num_columns(), 2);
        assert_eq!(rows[0].note_id.to_string(), int(1));
        shard
    };
    let base = prepared(CSV).await;
    let liked = prepared(&CSV.replace("10", "11")).await;
    assert_eq!(base.content, liked.content);
    assert_ne!(base.columns, liked.columns);
    let edited = prepared(&CSV.replace("two", "too")).await;
    assert_ne!(base.content, edited.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_null_columns_print_nothing() {
    let jsonl = concat!(
        r#"{"id": "a", "title": " T ", "topics": ["x", null, "y"], "likes": null}"#,
        "\n",
        r#"{"id": "b", "title": null, "topics": null, "likes": 3}"#,
        "\n",
        r#"{"id": "c", "title": "only", "topics": []}"#,
        "\n",
    );
    let mut corpus =
        Corpus::new("n.jsonl", "SELECT id AS note_id, title, topics, likes FROM notes")
            .write("n.jsonl", jsonl);
    corpus.options.template =
        "{% if title %}{{ title }}{% endif %}{% if body %}!{% endif %}[{{ topics | join(',') }}]{{ likes }}{% if likes %}+{% endif %}"
            .into();
    let texts: Vec<_> = corpus.texts().await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["T [x,y]", "[]3+", "only[]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_count_decides_the_shards() {
    let sql = "SELECT id AS note_id, title FROM notes";
    for (rows, shards) in [(9_999, 1), (10_000, 4)] {
        let csv: String = (0..rows).map(|id| format!("{id},note {id}\n")).collect();
        let mut corpus = Corpus::new("n.csv", sql).write("n.csv", format!("id,title\n{csv}"));
        corpus.shards = None;
        let (outcome, read) = corpus.rows().await;
        assert_eq!((outcome.shards.len(), read.len()), (shards, rows));
    }
    let mut empty = Corpus::new("n.csv", "SELECT id AS note_id, title FROM notes WHERE id > 5")
        .write("n.csv", CSV);
    empty.shards = Some(3);
    let (outcome, rows) = empty.rows().await;
    assert_eq!((outcome.shards.len(), rows.len()), (3, 0), "empty shards have a file");
}
