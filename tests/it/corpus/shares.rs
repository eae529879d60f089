//! A corpus that several tasks read, each a share of its files: what comes of it is what comes of one task.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use scalingnote::corpus::{
    CorpusMode, CorpusReading, Earlier, PrepareOutcome, TableFormat, TypeRule,
};
use scalingnote::observe::{Event, Recorder};
use scalingnote::store::Root;
use scalingnote::types::NoteId;

use super::{Corpus, digests};

#[derive(Debug, Clone)]
struct Row {
    id: Option<u8>,
    at: Option<i64>,
    gone: bool,
    title: Option<u8>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let optional = |of| proptest::option::weighted(0.9, of);
    let row =
        (optional(0_u8..40), proptest::option::of(0_i64..4), any::<bool>(), optional(0_u8..4))
            .prop_map(|(id, at, gone, title)| Row { id, at, gone, title });
    proptest::collection::vec(row, 2..160)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Json,
    Csv,
    Parquet,
    Markdown,
}

const SOURCES: [Source; 4] = [Source::Json, Source::Csv, Source::Parquet, Source::Markdown];

/// The rows, dealt to files in some order.
fn written(source: Source, rows: &[Row], files: usize) -> Corpus {
    let mut corpus = Corpus::new("notes", "");
    corpus.options.tables[0].format = (source == Source::Markdown).then_some(TableFormat::Markdown);
    corpus.options.sql = match source {
        Source::Markdown => "SELECT id AS note_id, title, CAST(at AS BIGINT) AS updated_at, gone = 'true' AS deleted, \
             length(title) AS size FROM notes WHERE id <> 'x-types' OR id IS NULL",
        _ => "SELECT id AS note_id, title, n.at AS updated_at, gone = 'true' AS deleted, length(title) AS size \
              FROM (SELECT *, upper(id) AS loud FROM notes) AS n WHERE loud <> 'X-TYPES' OR loud IS NULL",
    }
    .to_owned();
    corpus.options.template = "{{ title }}".to_owned();
    corpus.options.stored_columns = vec!["size".to_owned()];
    corpus.options.max_rejected = 1000;
    corpus.options.mode = CorpusMode::Delta;
    for file in 0..files {
        let own: Vec<&Row> = rows.iter().skip(file).step_by(files).collect();
        let name = format!("notes/{file}");
        corpus = match source {
            Source::Json => corpus.write(&format!("{name}.jsonl"), json(&own)),
            Source::Csv => corpus.write(&format!("{name}.csv"), csv(&own)),
            Source::Parquet => corpus.write(&format!("{name}.parquet"), parquet(&own)),
            Source::Markdown => {
                let types = "---\nid: \"x-types\"\nat: 1\ngone: \"no\"\n---\n# t\n";
                corpus = corpus.write(&format!("{name}/types.md"), types);
                for (at, row) in own.into_iter().enumerate() {
                    corpus = corpus.write(&format!("{name}/{at}.md"), markdown(row));
                }
                corpus
            }
        };
    }
    corpus
}

fn id(row: &Row) -> Option<String> {
    row.id.map(|id| if id == 0 { String::new() } else { format!("n{id}") })
}

fn title(row: &Row) -> Option<String> {
    row.title.map(|title| if title == 0 { " ".to_owned() } else { format!("title {title}") })
}

fn json(rows: &[&Row]) -> String {
    let mut text =
        "{\"id\": \"x-types\", \"title\": \"t\", \"at\": 1, \"gone\": \"no\"}\n".to_owned();
    for row in rows {
        let (id, title) = (id(row), title(row));
        let value = serde_json::json!({"id": id, "title": title, "at": row.at, "gone": row.gone.to_string()});
        writeln!(text, "{value}").unwrap();
    }
    // A row that nobody can read is rejected.
    text + "[1]\n"
}

fn csv(rows: &[&Row]) -> String {
    let mut text = "id,title,at,gone\nx-types,t,1,no\n".to_owned();
    for row in rows {
        let at = row.at.map_or_else(String::new, |at| at.to_string());
        let (id, title) = (id(row).unwrap_or_default(), title(row).unwrap_or_default());
        writeln!(text, "{id},{title},{at},{}", row.gone).unwrap();
    }
    text + "too,many,1,fields,here\n"
}

/// Row groups of five rows.
fn parquet(rows: &[&Row]) -> Vec<u8> {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(rows.iter().map(|row| id(row)).collect::<StringArray>())),
        ("title", Arc::new(rows.iter().map(|row| title(row)).collect::<StringArray>())),
        ("at", Arc::new(rows.iter().map(|row| row.at).collect::<Int64Array>())),
        ("gone", Arc::new(rows.iter().map(|r| Some(r.gone.to_string())).collect::<StringArray>())),
    ];
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(5)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn markdown(row: &Row) -> String {
    let mut text = "---\n".to_owned();
    id(row).into_iter().for_each(|id| writeln!(text, "id: \"{id}\"").unwrap());
    row.at.into_iter().for_each(|at| writeln!(text, "at: {at}").unwrap());
    writeln!(text, "gone: \"{}\"\n---", row.gone).unwrap();
    text + &title(row).map_or_else(String::new, |title| format!("# {title}\n"))
}

/// What a person is told, without how the corpus was read.
fn told(corpus: &Corpus) -> Vec<String> {
    let told = |(_, event)| match event {
        Event::Info { message } | Event::Warning { message } => Some(message),
        _ => None,
    };
    let all = corpus.reporter.events().into_iter().filter_map(told);
    all.filter(|message| !message.starts_with("the corpus is read")).collect()
}

fn shares(outcome: &PrepareOutcome) -> u32 {
    match outcome.reading {
        Some(CorpusReading::Shares(count)) => count,
        _ => 1,
    }
}

async fn keys(corpus: &Corpus) -> Vec<String> {
    let listed = corpus.root.list("prepared/test").await.unwrap();
    listed.into_iter().map(|object| object.key).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_split_prepares_the_same_files(
        rows in rows(), source in 0_usize..4, files in 1_usize..6, shards in 2_u32..7, bytes in 200_u64..4000,
        guessed: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        let source = SOURCES[source];
        let mut corpus = written(source, &rows, files);
        corpus.options.types = if guessed { TypeRule::Guessed } else { TypeRule::Exact };
        corpus.shards = Some(shards);
        corpus.share_bytes = u64::MAX;
        runtime.block_on(async {
            let whole = corpus.prepare().await.unwrap();
            prop_assert_eq!(shares(&whole), 1);
            let (said, listed) = (told(&corpus), keys(&corpus).await);

            corpus.root = Root::in_memory();
            corpus.reporter = Arc::new(Recorder::default());
            corpus.share_bytes = bytes;
            let split = corpus.rows().await.0;
            prop_assert_eq!(digests(&split), digests(&whole));
            prop_assert_eq!(told(&corpus), said);
            // Rows on their way are gone, too.
            prop_assert_eq!(keys(&corpus).await, listed);
            prop_assert_eq!(PrepareOutcome { reading: whole.reading.clone(), ..split }, whole);
            Ok(())
        })?;
    }
}

/// So many shares that each file, and each row group, is one.
#[tokio::test(flavor = "multi_thread")]
async fn files_and_row_groups_are_shares() {
    let row = |at: u8| Row { id: Some(at), at: None, gone: false, title: Some(1) };
    let rows: Vec<Row> = (1..=40).map(row).collect();
    for (source, at_least) in SOURCES.into_iter().zip([2, 2, 8, 15]) {
        let mut corpus = written(source, &rows, 2);
        (corpus.shards, corpus.share_bytes) = (Some(3), 50);
        let (outcome, notes) = corpus.rows().await;
        assert_eq!(notes.len(), 40, "{source:?}");
        assert!(shares(&outcome) >= at_least, "{source:?}: {:?}", outcome.reading);
        corpus.share_bytes = 500;
        assert_eq!(digests(&corpus.prepare().await.unwrap()), digests(&outcome), "{source:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_queries_of_single_rows_are_split() {
    let row = |at: u8| Row { id: Some(at), at: Some(1), gone: false, title: Some(1) };
    let rows: Vec<Row> = (1..=9).map(row).collect();
    let one = |sql: &str| format!("SELECT id AS note_id, title FROM {sql}");
    let cases = [
        ("", one("notes")),
        ("", one("notes WHERE title LIKE 't%' AND id IN ('n1', 'n2')")),
        (
            "",
            one(
                "(SELECT id, coalesce(title, '-') AS title FROM notes) AS some_notes WHERE id <> ''",
            ),
        ),
        ("", format!("WITH named AS ({}) SELECT note_id, title FROM named", one("notes"))),
        ("choose rows and columns", one("notes LIMIT 5")),
        ("choose rows and columns", one("notes ORDER BY id")),
        ("choose rows and columns", "SELECT DISTINCT id AS note_id, title FROM notes".to_owned()),
        ("choose rows and columns", format!("{} UNION ALL {}", one("notes"), one("notes"))),
        (
            "choose rows and columns",
            one("notes JOIN (SELECT id AS other FROM notes) ON id = other"),
        ),
        (
            "choose rows and columns",
            "SELECT id AS note_id, max(title) AS title FROM notes GROUP BY id".to_owned(),
        ),
        (
            "choose rows and columns",
            "SELECT id AS note_id, first_value(title) OVER (PARTITION BY id) AS title FROM notes"
                .to_owned(),
        ),
        ("asks for the time", one("notes WHERE id IN (SELECT id FROM notes)")),
        ("asks for the time", one("notes WHERE now() > to_timestamp(0)")),
        ("asks for the time", one("notes WHERE random() < 2")),
    ];
    for (why, sql) in cases {
        let mut corpus = written(Source::Json, &rows, 3);
        corpus.options.sql = sql.clone();
        corpus.options.stored_columns.clear();
        (corpus.shards, corpus.share_bytes) = (Some(2), 1);
        let outcome = corpus.prepare().await.unwrap();
        match (why, outcome.reading) {
            ("", Some(CorpusReading::Shares(3))) => {}
            (why, Some(CorpusReading::One(found))) if !why.is_empty() => {
                assert!(found.contains(why), "{sql}: {found}");
            }
            (_, reading) => panic!("{sql}: {reading:?}"),
        }
    }
    for (why, shards, bytes, files) in [
        ("all notes are in one shard", 1, 1, 3),
        ("one share of corpus.share_mib", 2, u64::MAX, 3),
        ("one file that is not cut", 2, 1, 1),
    ] {
        let mut corpus = written(Source::Csv, &rows, files);
        (corpus.shards, corpus.share_bytes) = (Some(shards), bytes);
        let reading = corpus.prepare().await.unwrap().reading;
        assert_eq!(reading.map(|reading| reading.to_string().contains(why)), Some(true), "{why}");
    }
}

/// What is wrong with a row is said as one task says it.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_those_of_one_task() {
    let good: String =
        (0..50).map(|id| format!("{{\"id\": \"{id}\", \"title\": \"t\"}}\n")).collect();
    let cases: [(&str, &str, &str); 4] = [
        (
            "SELECT id AS note_id, title FROM notes",
            "{\"id\": \"A7\", \"title\": \"t\"}\n",
            "row 51",
        ),
        (
            "SELECT id AS note_id, title FROM notes",
            "{\"id\": \"\", \"title\": \"t\"}\n",
            "1 row was rejected",
        ),
        (
            "SELECT id AS note_id, title, id AS updated_at FROM notes",
            "{\"id\": \"1\", \"title\": \"t\"}\n{\"id\": \"x\", \"title\": \"v1\"}\n{\"id\": \"x\", \"title\": \"v2\"}\n",
            "",
        ),
        (
            "SELECT CAST(CAST(id AS TINYINT) AS BIGINT) AS note_id, title FROM notes",
            "{\"id\": \"999\", \"title\": \"t\"}\n",
            "999",
        ),
    ];
    for (at, (sql, bad, word)) in cases.into_iter().enumerate() {
        let mut corpus = Corpus::new("notes", sql)
            .write("notes/a.jsonl", &good)
            .write("notes/b.jsonl", format!("{good}{bad}"))
            .write("notes/c.jsonl", &good);
        corpus.options.template = "{{ title }}".to_owned();
        corpus.shards = Some(3);
        if at == 0 {
            corpus.earlier = Some(Earlier { types: None, note: Some(NoteId::Int(1)) });
        }
        corpus.share_bytes = u64::MAX;
        let whole = corpus.prepare().await.map(|outcome| digests(&outcome));
        corpus.share_bytes = 1;
        let split = corpus.prepare().await.map(|outcome| digests(&outcome));
        match (whole, split) {
            (Ok(whole), Ok(split)) => assert_eq!(whole, split, "{sql}"),
            (Err(whole), Err(split)) => {
                assert_eq!((split.kind(), split.to_string()), (whole.kind(), whole.to_string()));
                if at < 2 {
                    assert!(split.to_string().contains(word), "{split}");
                }
            }
            (whole, split) => panic!("{sql}: {whole:?}, {split:?}"),
        }
    }
}

/// Shards that sort more than they may hold spill, as one task does.
#[tokio::test(flavor = "multi_thread")]
async fn shares_keep_to_the_memory_limit() {
    let mut corpus = Corpus::new("notes", "SELECT id AS note_id, title, body FROM notes");
    let mut ids = BTreeSet::new();
    for file in 0..4_u64 {
        let mut csv = String::from("id,title,body\n");
        for row in 0..30_000_u64 {
            let id = (row * 4 + file).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            ids.insert(id);
            let body = format!("{:016x} ", id.wrapping_mul(7919)).repeat(12);
            writeln!(csv, "{id},note {row},{body}").unwrap();
        }
        corpus = corpus.write(&format!("notes/{file}.csv"), csv);
    }
    corpus.shards = Some(2);
    corpus.options.memory_limit_mib = 1024;
    let whole = corpus.prepare().await.unwrap();
    assert_eq!(whole.shards.iter().map(|shard| shard.notes).sum::<u64>(), ids.len() as u64);
    corpus.root = Root::in_memory();
    corpus.options.memory_limit_mib = 16;
    corpus.share_bytes = 4 << 20;
    let tight = corpus.prepare().await.unwrap();
    assert_eq!(shares(&tight), 4);
    assert!(format!("{:?}", corpus.reporter.events()).contains("spilled"), "it did spill");
    assert_eq!(digests(&tight), digests(&whole));
}
