//! Every format, place and compression gives the same prepared shards.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use futures::{StreamExt, TryStreamExt};
use scalingnote::corpus::TableFormat;

use super::{Corpus, digests, shared};
use crate::house::hostile::targets::files::{avro, csv, ipc, jsonl, parquet};

const SQL: &str =
    "SELECT id AS note_id, title, text AS body, created AS updated_at, score FROM notes";

/// Stack Exchange notes, as flat columns so that CSV can hold them.
fn notes(path: &Path) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("_id", DataType::Utf8, false),
        Field::new("title", DataType::Utf8, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("score", DataType::Int64, true),
        Field::new("created", DataType::Utf8, true),
    ]);
    let file = BufReader::new(File::open(path).unwrap());
    let reader = arrow::json::ReaderBuilder::new(Arc::new(schema)).build(file).unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    let batch = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    let names = ["id", "title", "text", "score", "created"];
    RecordBatch::try_from_iter(names.into_iter().zip(batch.columns().iter().cloned())).unwrap()
}

async fn compress(bytes: Vec<u8>, kind: FileCompressionType) -> Vec<u8> {
    let stream = futures::stream::iter([Ok(Bytes::from(bytes))]).boxed();
    let chunks: Vec<Bytes> =
        kind.convert_to_compress_stream(stream).unwrap().try_collect().await.unwrap();
    chunks.concat()
}

fn corpus(uri: &str) -> Corpus {
    let mut corpus = Corpus::new(uri, SQL);
    corpus.shards = Some(3);
    corpus.options.stored_columns = vec!["score".into(), "title".into()];
    corpus
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_and_compression_gives_the_same_shards() {
    let Some(path) = shared("stackexchange-mini/notes.jsonl") else { return };
    let batch = notes(&path);
    let gzip = |bytes| compress(bytes, FileCompressionType::GZIP);
    let zstd = |bytes| compress(bytes, FileCompressionType::ZSTD);
    let (outcome, rows) = corpus("n.parquet").write("n.parquet", parquet(&batch)).rows().await;
    assert_eq!((rows.len(), outcome.rows_read, outcome.duplicates), (1285, 1285, 0));
    assert_eq!(outcome.inputs.len(), 1);
    assert!(outcome.inputs[0].uri.ends_with("/n.parquet"), "{:?}", outcome.inputs);
    let expected = digests(&outcome);
    let files = [
        ("n.jsonl", jsonl(&batch)),
        ("n.csv", csv(&batch)),
        ("n.arrow", ipc(&batch)),
        ("n.avro", avro(&batch)),
        ("n.jsonl.gz", gzip(jsonl(&batch)).await),
        ("n.jsonl.zst", zstd(jsonl(&batch)).await),
        ("n.csv.gz", gzip(csv(&batch)).await),
        ("n.csv.zst", zstd(csv(&batch)).await),
    ];
    for (name, bytes) in files {
        let (outcome, _) = corpus(name).write(name, bytes).rows().await;
        assert_eq!(digests(&outcome), expected, "{name}");
    }
    let mut without_ending = corpus("dump").write("dump", csv(&batch));
    let error = without_ending.fails().await;
    assert!(error.to_string().contains("set format"), "{error}");
    without_ending.options.tables[0].format = Some(TableFormat::Csv);
    assert_eq!(digests(&without_ending.rows().await.0), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_globs_and_uris_give_the_same_shards() {
    let Some(path) = shared("stackexchange-mini/notes.jsonl") else { return };
    let batch = notes(&path);
    let expected = digests(&corpus("n.csv").write("n.csv", csv(&batch)).rows().await.0);
    let third = batch.num_rows() / 3;
    // The file names reverse the order of the rows.
    let parts = [
        ("d/c.jsonl", batch.slice(0, third)),
        ("d/sub/b.jsonl", batch.slice(third, third)),
        ("d/a.jsonl", batch.slice(2 * third, batch.num_rows() - 2 * third)),
    ];
    for uri in ["d", "d/", "d/**/*.jsonl", "file"] {
        let mut corpus = corpus(uri).write("d/_SUCCESS", "").write("d/README.md", "no data");
        for (name, part) in &parts {
            corpus = corpus.write(name, jsonl(part));
        }
        if uri == "file" {
            corpus.options.tables[0].uri = format!("file://{}/d", corpus.dir.path().display());
        }
        let (outcome, _) = corpus.rows().await;
        assert_eq!(digests(&outcome), expected, "{uri}");
        assert_eq!(outcome.inputs.len(), 3);
        let warned = format!("{:?}", corpus.reporter.events()).contains("README.md");
        assert_eq!(warned, !uri.contains('*'), "{uri}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_security_catalogue_in_csv() {
    // The shape of the CWE catalogue: quoted headers, quotes, commas and line breaks in values, `::` lists.
    let csv = "CWE-ID,Name,Description,Extended Description\n\
        79,\"Improper Neutralization of Input ('Cross-site Scripting')\",\"The product, a \"\"web\"\" page\",\"line one\nline two\"\n\
        89,SQL Injection,Path C:\\,\n\
        22,Path Traversal,\"ends in a backslash C:\\\",more\n";
    let corpus = Corpus::new(
        "cwe/*.csv",
        r#"SELECT "CWE-ID" AS note_id, "Name" AS title,
                  concat_ws(' ', "Description", "Extended Description") AS body FROM notes"#,
    )
    .write("cwe/699.csv", csv);
    let texts = corpus.texts().await;
    let ids: Vec<_> = texts.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["i:22", "i:79", "i:89"], "integers sort by value");
    assert_eq!(
        texts[1].1,
        "Improper Neutralization of Input ('Cross-site Scripting')\nThe product, a \"web\" page line one\nline two"
    );
    assert_eq!(texts[2].1, "SQL Injection\nPath C:\\");
    assert_eq!(texts[0].1, "Path Traversal\nends in a backslash C:\\ more");
}

#[tokio::test(flavor = "multi_thread")]
async fn chinese_recipes() {
    let Some(path) = shared("howtocook-zh/corpus.jsonl") else { return };
    let mut corpus = Corpus::new(
        path.to_str().unwrap(),
        "SELECT _id AS note_id, title, text AS body, topics FROM notes",
    );
    corpus.options.template =
        "{{ title }}{% if topics %}（{{ topics | join('、') }}）{% endif %}\n{{ body }}".into();
    corpus.shards = Some(2);
    let texts = corpus.texts().await;
    assert_eq!(texts.len(), 322);
    let (_, text) =
        texts.iter().find(|(id, _)| id == "s:dishes-aquatic-咖喱炒蟹").expect("the curry crab");
    assert!(text.starts_with("咖喱炒蟹（"), "{text}");
    assert!(text.contains("第一次吃咖喱炒蟹是在泰国的建兴酒家中餐厅"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_join_and_late_fields_are_seen() {
    let mut notes = String::new();
    for id in 0..3000 {
        notes += &format!("{{\"id\": {id}, \"title\": \"t{id}\"}}\n");
    }
    notes += "{\"id\": 3000, \"title\": \"t3000\", \"body\": \"seen late\"}\n";
    let mut corpus = Corpus::new(
        "notes.jsonl",
        "SELECT id AS note_id, title, body, likes FROM notes JOIN likes USING (id)",
    )
    .write("notes.jsonl", notes)
    .write("likes.tsv", "id\tlikes\n3000\t7\n5\t9\n");
    corpus.options.tables.push(super::table("likes", "likes.tsv"));
    corpus.options.template = "{{ title }} {{ body }} {{ likes }}".into();
    let texts = corpus.texts().await;
    assert_eq!(texts[0], ("i:5".into(), "t5  9".into()));
    assert_eq!(texts[1], ("i:3000".into(), "t3000 seen late 7".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn arrow_types_of_every_kind_are_one() {
    use arrow::array::{
        DictionaryArray, Int8Array, Int64Array, LargeStringArray, StringArray, StringViewArray,
        TimestampSecondArray, UInt64Array,
    };
    use arrow::datatypes::Int32Type;
    let texts = ["b", "a", "c"];
    let plain: Arc<dyn Array> = Arc::new(StringArray::from_iter_values(texts));
    let dictionary: DictionaryArray<Int32Type> = texts.into_iter().collect();
    let spellings: [Arc<dyn Array>; 4] = [
        plain.clone(),
        Arc::new(LargeStringArray::from_iter_values(texts)),
        Arc::new(StringViewArray::from_iter_values(texts)),
        Arc::new(dictionary),
    ];
    let mut seen = Vec::new();
    for texts in spellings {
        let batch = RecordBatch::try_from_iter([
            ("note_id", texts.clone()),
            ("title", texts.clone()),
            ("topics", texts),
            ("at", Arc::new(TimestampSecondArray::from(vec![0, 1, 2])) as _),
        ])
        .unwrap();
        let mut corpus =
            Corpus::new("n.arrow", "SELECT * FROM notes").write("n.arrow", ipc(&batch));
        corpus.options.template = "{{ title }}/{{ topics | length }}/{{ at }}".into();
        corpus.options.stored_columns = vec!["title".into(), "at".into()];
        let (outcome, rows) = corpus.rows().await;
        assert_eq!(rows[0].text, "a/1/1970-01-01T00:00:01");
        seen.push(digests(&outcome));
    }
    assert!(seen.iter().all(|d| *d == seen[0]));

    let ints: [Arc<dyn Array>; 3] = [
        Arc::new(Int8Array::from(vec![3, -1, 2])),
        Arc::new(Int64Array::from(vec![3, -1, 2])),
        Arc::new(UInt64Array::from(vec![3, u64::MAX, 2])),
    ];
    for (at, ids) in ints.into_iter().enumerate() {
        let batch =
            RecordBatch::try_from_iter([("note_id", ids), ("title", plain.clone())]).unwrap();
        let corpus =
            Corpus::new("n.parquet", "SELECT * FROM notes").write("n.parquet", parquet(&batch));
        if at < 2 {
            let ids: Vec<_> = corpus.texts().await.into_iter().map(|(id, _)| id).collect();
            assert_eq!(ids, ["i:-1", "i:2", "i:3"]);
        } else {
            let error = corpus.fails().await;
            assert!(error.to_string().contains("CAST(note_id AS VARCHAR)"), "{error}");
        }
    }
}
