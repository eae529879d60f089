//! Duplicates, deletions, rejections, chunks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use scalingnote::corpus::{Chunker, CorpusMode};
use scalingnote::error::{ErrorKind, Result};

use super::{Corpus, digests};

const SQL: &str = "SELECT id AS note_id, title, at AS updated_at, gone AS deleted FROM notes";

fn corpus(jsonl: &str, sql: &str) -> Corpus {
    let mut corpus = Corpus::new("n.jsonl", sql).write("n.jsonl", jsonl);
    corpus.options.template = "{{ title }}".into();
    corpus
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_wins_whatever_the_type_of_time() {
    let jsonl = concat!(
        r#"{"id": 1, "title": "newest", "at": "2024-03-01T00:00:00Z", "n": 30}"#,
        "\n",
        r#"{"id": 1, "title": "older, later zone", "at": "2024-03-01T01:30:00+02:00", "n": 4}"#,
        "\n",
        r#"{"id": 1, "title": "never", "at": null, "n": null}"#,
        "\n",
        r#"{"id": 2, "title": "alone", "at": "2020-01-01", "n": 1}"#,
        "\n",
    );
    for time in [
        "at",
        "n",
        "CAST(at AS TIMESTAMP)",
        "to_timestamp_seconds(n)",
        "CAST(n AS SMALLINT)",
        "arrow_cast(n, 'UInt64')",
        "arrow_cast(n, 'Date32')",
        "CAST(n AS VARCHAR)",
    ] {
        let sql = format!("SELECT id AS note_id, title, {time} AS updated_at FROM notes");
        let corpus = corpus(jsonl, &sql);
        let (outcome, rows) = corpus.rows().await;
        let texts: Vec<_> = rows.iter().map(|row| row.text.as_str()).collect();
        assert_eq!(texts, ["newest", "alone"], "{time}");
        assert_eq!((outcome.rows_read, outcome.duplicates), (4, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_by_mode() {
    let jsonl = concat!(
        r#"{"id": "a", "title": "alive again", "at": 2, "gone": false}"#,
        "\n",
        r#"{"id": "a", "title": "", "at": 1, "gone": true}"#,
        "\n",
        r#"{"id": "b", "title": "was here", "at": 1, "gone": false}"#,
        "\n",
        r#"{"id": "b", "title": null, "at": 2, "gone": true}"#,
        "\n",
        r#"{"id": "c", "title": "tie", "at": 2, "gone": null}"#,
        "\n",
        r#"{"id": "c", "title": "tie", "at": 2, "gone": true}"#,
        "\n",
    );
    let mut corpus = corpus(jsonl, SQL);
    corpus.options.stored_columns = vec!["title".into()];
    let (outcome, rows) = corpus.rows().await;
    assert_eq!(rows.len(), 1, "only a lives");
    assert_eq!((rows[0].text.as_str(), outcome.duplicates), ("alive again", 3));

    corpus.options.mode = CorpusMode::Delta;
    let (outcome, rows) = corpus.rows().await;
    let deleted: Vec<_> = rows.iter().map(|r| (r.note_id.to_string(), r.deleted)).collect();
    assert_eq!(deleted, [("s:a".into(), false), ("s:b".into(), true), ("s:c".into(), true)]);
    assert_eq!((outcome.shards[0].notes, outcome.shards[0].deletions), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_are_counted_and_limited() {
    let jsonl = concat!(
        r#"{"id": "a", "title": "fine"}"#,
        "\n",
        r#"{"id": null, "title": "SECRET text"}"#,
        "\n",
        r#"{"id": "", "title": "SECRET text"}"#,
        "\n",
        r#"{"id": "b", "title": "  \n "}"#,
        "\n",
        r#"{"id": "c", "title": null}"#,
        "\n",
    );
    let mut corpus = corpus(jsonl, "SELECT id AS note_id, title FROM notes");
    corpus.options.max_rejected = 3;
    let error = corpus.fails().await;
    assert_eq!(error.kind(), ErrorKind::Input);
    let text = error.to_string();
    for word in ["4 rows", "2 no text", "1 null note_id", "1 empty note_id", "note s:b: no text"] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!format!("{error:?}").contains("SECRET"));

    corpus.options.max_rejected = 4;
    let (outcome, rows) = corpus.rows().await;
    assert_eq!((rows.len(), outcome.rejections.total()), (1, 4));
    assert_eq!(outcome.rejections.by_reason["no text"], 2);
    assert_eq!(outcome.rejections.samples.len(), 4);
}

/// Windows of three characters.
struct Threes;

impl Chunker for Threes {
    fn chunks(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let starts: Vec<_> = text.char_indices().map(|(at, _)| at).step_by(3).collect();
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        Ok(starts.iter().copied().zip(ends).map(|(from, to)| from..to).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_rows_of_their_own() {
    let jsonl =
        "{\"id\": \"a\", \"title\": \"一二三四五六七\"}\n{\"id\": \"b\", \"title\": \"xy\"}\n";
    let mut corpus = corpus(jsonl, "SELECT id AS note_id, title FROM notes");
    corpus.options.stored_columns = vec!["title".into()];
    corpus.chunker = Some(Arc::new(Threes));
    let (outcome, rows) = corpus.rows().await;
    let texts: Vec<_> = rows.iter().map(|r| (r.chunk, r.text.as_str())).collect();
    assert_eq!(texts, [(0, "一二三"), (1, "四五六"), (2, "七"), (0, "xy")]);
    assert_eq!((outcome.shards[0].notes, outcome.shards[0].rows), (2, 4));
}

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    at: Option<i64>,
    gone: bool,
    title: u8,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (-20_i64..20, proptest::option::of(0_i64..4), any::<bool>(), 0_u8..4)
        .prop_map(|(id, at, gone, title)| Row { id, at, gone, title });
    proptest::collection::vec(row, 1..120)
}

fn jsonl(rows: &[Row]) -> String {
    let line = |r: &Row| {
        let value = serde_json::json!(
            {"id": r.id, "at": r.at, "gone": r.gone, "title": format!("t{}", r.title)});
        format!("{value}\n")
    };
    // A first row of known types that the query drops.
    let types = r#"{"id": 99, "at": 1, "gone": false, "title": "types"}"#;
    format!("{types}\n{}", rows.iter().map(line).collect::<String>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Each live note exactly once, in its shard, newest wins; the order of the input does not matter.
    #[test]
    fn the_newest_row_of_every_note_lives_once(rows in rows(), shards in 1_u32..9, delta: bool) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        let sql = format!("{SQL} WHERE id <> 99");
        let run = |text: String| {
            let mut corpus = corpus(&text, &sql);
            corpus.shards = Some(shards);
            corpus.options.mode = if delta { CorpusMode::Delta } else { CorpusMode::Full };
            runtime.block_on(corpus.rows())
        };
        // Shards and order are checked by `Corpus::rows`.
        let (outcome, prepared) = run(jsonl(&rows));

        let mut newest: BTreeMap<i64, (Option<i64>, bool, u8)> = BTreeMap::new();
        for row in &rows {
            let candidate = (row.at, row.gone, row.title);
            let best = newest.entry(row.id).or_insert(candidate);
            *best = candidate.max(*best);
        }
        let expected: BTreeMap<String, (bool, String)> = newest
            .iter()
            .filter(|(_, (_, gone, _))| delta || !gone)
            .map(|(id, (_, gone, title))| {
                let text = if *gone { String::new() } else { format!("t{title}") };
                (super::int(*id), (*gone, text))
            })
            .collect();
        let found: BTreeMap<String, (bool, String)> = prepared
            .iter()
            .map(|row| (row.note_id.to_string(), (row.deleted, row.text.clone())))
            .collect();
        prop_assert_eq!(found.len(), prepared.len(), "once");
        prop_assert_eq!(found, expected);
        prop_assert_eq!(outcome.duplicates as usize, rows.len() - newest.len());

        let mut reversed = rows.clone();
        reversed.reverse();
        prop_assert_eq!(digests(&run(jsonl(&reversed)).0), digests(&outcome));
    }
}
