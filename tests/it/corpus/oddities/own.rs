//! Files that describe themselves: types that differ from file to file, and declared ones.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use scalingnote::error::ErrorKind;

use super::{Cell, Table, avro, config, corpus, ipc, ipc_stream, notes, parquet, refused};
use crate::corpus::Corpus;

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let columns = columns.iter().map(|(name, values)| (*name, Arc::clone(values), true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn text(text: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![text]))
}

fn int(value: i64) -> ArrayRef {
    Arc::new(Int64Array::from(vec![value]))
}

type Writer = fn(&RecordBatch) -> Vec<u8>;

/// A folder `d` with a file of each batch.
fn folder(ending: &str, writer: Writer, options: &str, batches: &[RecordBatch]) -> Corpus {
    let mut corpus = corpus("d", options);
    for (at, batch) in batches.iter().enumerate() {
        corpus = corpus.write(&format!("d/{at}.{ending}"), writer(batch));
    }
    corpus
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_table_may_differ_where_nothing_is_lost() {
    let mut table = Table::default();
    let dictionary: DictionaryArray<Int32Type> = ["b"].into_iter().collect();
    let differ = [
        batch(&[
            ("id", Arc::new(Int32Array::from(vec![1]))),
            ("title", text("a")),
            ("at", Arc::new(TimestampSecondArray::from(vec![1]))),
        ]),
        batch(&[
            ("id", int(1 << 40)),
            ("title", Arc::new(dictionary)),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![2_000_000_001]))),
        ]),
        batch(&[
            ("title", Arc::new(LargeStringArray::from(vec!["c"]))),
            ("id", Arc::new(UInt8Array::from(vec![3]))),
        ]),
    ];
    let sql = r#"{"sql": "SELECT id AS note_id, title || ' ' || coalesce(CAST(at AS VARCHAR), 'none') AS title FROM notes"}"#;
    let all = notes(&[
        ("i:1", "a 1970-01-01T00:00:01"),
        ("i:3", "c none"),
        ("i:1099511627776", "b 1970-01-01T00:00:02.000000001"),
    ]);
    let unlike: [(&str, ArrayRef); 3] = [
        ("Utf8", text("2")),
        ("UInt64", Arc::new(UInt64Array::from(vec![2]))),
        ("Float64", Arc::new(Float64Array::from(vec![2.0]))),
    ];
    for (ending, writer) in [("parquet", parquet as Writer), ("arrow", ipc), ("arrow", ipc_stream)]
    {
        let mut corpus = folder(ending, writer, sql, &differ);
        table.see("types with room for both", &mut corpus, &all).await;
        for (name, id) in &unlike {
            let files =
                [int(1), Arc::clone(id)].map(|id| batch(&[("id", id), ("title", text("SECRET"))]));
            let mut corpus = folder(ending, writer, "{}", &files);
            let said = [&format!("column `id` is {name}"), "but Int64", "make them two tables"];
            table.see("types without", &mut corpus, &refused(&said)).await;
        }
    }
    let files = [
        batch(&[("id", int(1)), ("title", text("a")), ("at", text("x"))]),
        batch(&[("id", int(2)), ("title", text("b"))]),
    ];
    let mut corpus = folder("avro", avro, sql, &files);
    table
        .see("a column that is missing", &mut corpus, &notes(&[("i:1", "a x"), ("i:2", "b none")]))
        .await;
    // The two formats of Arrow have one ending. Whichever comes first must not say how the others are read.
    for mixed in [[ipc as Writer, ipc_stream, ipc], [ipc_stream, ipc, ipc_stream]] {
        let mut corpus = super::corpus("d", sql);
        for (at, (batch, writer)) in differ.iter().zip(mixed).enumerate() {
            corpus = corpus.write(&format!("d/{at}.arrow"), writer(batch));
        }
        table.see("files and streams", &mut corpus, &all).await;
        let mut corpus = super::corpus("d", "{}");
        for (at, writer) in mixed.into_iter().enumerate() {
            let rows = batch(&[("id", int(at as i64)), ("title", text("a"))]);
            corpus = corpus.write(&format!("d/{at}.arrow"), writer(&rows));
        }
        let same = notes(&[("i:0", "a"), ("i:1", "a"), ("i:2", "a")]);
        table.see("files and streams of one schema", &mut corpus, &same).await;
    }
    table.end(17);
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_types_keep_every_value() {
    let mut table = Table::default();
    let declared = |of: &str| {
        let of = if of.starts_with('{') { of.to_owned() } else { format!("\"{of}\"") };
        format!(
            r#"{{"schema": {{"v": {of}}}, "sql": "SELECT id AS note_id, CAST(v AS VARCHAR) AS title FROM notes"}}"#
        )
    };
    let wrong = |row: usize, of: &str| {
        let row = format!("row {row}: column `v`: not {of}");
        refused(&[&row, "which `schema` of table `notes` declares"])
    };
    let times = r#"{"timestamp": "%d.%m.%Y"}"#;
    let cells: [(&str, ArrayRef, Cell); 14] = [
        ("string", int(7), notes(&[("i:1", "7")])),
        ("integer", text("007"), notes(&[("i:1", "7")])),
        ("integer", text("SECRET"), wrong(1, "a whole number")),
        ("float", text("1e999"), wrong(1, "a number")),
        ("boolean", text("yes"), wrong(1, "true or false")),
        ("date", text("2024-10-01T12:00:00"), wrong(1, "a day")),
        ("integer", text(""), wrong(1, "a whole number")),
        (times, text("01.10.2024"), notes(&[("i:1", "2024-10-01T00:00:00")])),
        (times, text("10/01/2024"), wrong(1, "a point in time")),
        (
            "integer",
            Arc::new(UInt64Array::from(vec![u64::MAX])),
            config(&["column `v` as integer", "UInt64"]),
        ),
        (
            "integer",
            Arc::new(Float64Array::from(vec![2.5])),
            config(&["column `v` as integer", "Float64", "corpus.sql"]),
        ),
        (
            "string",
            Arc::new(Float64Array::from(vec![2.5])),
            config(&["column `v` as string", "Float64"]),
        ),
        (
            "timestamp",
            Arc::new(TimestampSecondArray::from(vec![1])),
            notes(&[("i:1", "1970-01-01T00:00:01")]),
        ),
        (
            "timestamp",
            Arc::new(TimestampNanosecondArray::from(vec![1])),
            config(&["column `v` as timestamp"]),
        ),
    ];
    for (of, values, cell) in cells {
        for (name, writer) in
            [("n.parquet", parquet as Writer), ("n.arrow", ipc), ("n.arrow", ipc_stream)]
        {
            let bytes = writer(&batch(&[("id", int(1)), ("v", Arc::clone(&values))]));
            let mut corpus = corpus(name, &declared(of)).write(name, bytes);
            let what = format!("{} as {of}", values.data_type());
            table.see(&what, &mut corpus, &cell).await;
        }
    }
    table.end(42);
}

/// The place of a value that does not fit is that in its file, however the files are read.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_is_named_by_its_row() {
    let mut table = Table::default();
    let ids = |from: i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(from..from + 3000)) };
    let numbered = |wrong: Option<usize>| -> ArrayRef {
        let text = |at| if Some(at) == wrong { "SECRET".to_owned() } else { at.to_string() };
        Arc::new(StringArray::from_iter_values((0..3000).map(text)))
    };
    let options = r#"{"schema": {"v": "integer"}, "sql": "SELECT id AS note_id, CAST(v AS VARCHAR) AS title FROM notes"}"#;
    let lazy = options.replace("CAST(v AS VARCHAR)", "'a'");
    for (ending, writer) in
        [("parquet", parquet as Writer), ("arrow", ipc), ("arrow", ipc_stream), ("avro", avro)]
    {
        let files = [(0, None), (3000, Some(2499)), (6000, Some(1))];
        let files = files.map(|(from, wrong)| batch(&[("id", ids(from)), ("v", numbered(wrong))]));
        let place = format!("1.{ending} row 2500: column `v`: not a whole number of 64 bits");
        let mut corpus = folder(ending, writer, options, &files);
        // Counting reads the column, too, where the number of shards is open.
        for shards in [Some(1), None] {
            corpus.shards = shards;
            table.see("a text among numbers", &mut corpus, &refused(&[&place])).await;
        }
        let corpus = folder(ending, writer, &lazy, &files);
        assert_eq!(Table::came_to(&corpus).await.unwrap().len(), 9000, "nobody reads the column");
    }
    // Seconds of the year 9999 have no room in nanoseconds, which the other file has.
    let late = Arc::new(TimestampSecondArray::from(vec![1, 253_402_300_799]));
    let files = [
        batch(&[("id", int(1)), ("at", Arc::new(TimestampNanosecondArray::from(vec![1])))]),
        batch(&[("id", Arc::new(Int64Array::from(vec![2, 3]))), ("at", late)]),
    ];
    let options = r#"{"sql": "SELECT id AS note_id, CAST(at AS VARCHAR) AS title FROM notes"}"#;
    for (ending, writer) in [("parquet", parquet as Writer), ("arrow", ipc)] {
        let mut corpus = folder(ending, writer, options, &files);
        let place =
            format!("1.{ending} row 2: column `at`: there is no room for it in Timestamp(ns)");
        table.see("a time that is too late", &mut corpus, &refused(&[&place, "CAST"])).await;
    }
    table.end(10);
}

/// By name, not by place: two columns of one type that change places stay what they are called.
#[tokio::test(flavor = "multi_thread")]
async fn columns_are_read_by_name() {
    let mut table = Table::default();
    let files = [
        batch(&[("id", text("1")), ("title", text("a")), ("more", text("x"))]),
        batch(&[("more", text("y")), ("title", text("b")), ("id", text("2"))]),
        batch(&[("title", text("c")), ("id", text("3"))]),
    ];
    let sql =
        r#"{"sql": "SELECT id AS note_id, title || coalesce(more, '-') AS title FROM notes"}"#;
    for (ending, writer) in
        [("parquet", parquet as Writer), ("arrow", ipc), ("arrow", ipc_stream), ("avro", avro)]
    {
        let mut corpus = folder(ending, writer, sql, &files);
        let all = notes(&[("s:1", "ax"), ("s:2", "by"), ("s:3", "c-")]);
        table.see(&format!("columns that change places, {ending}"), &mut corpus, &all).await;
    }
    table.end(4);
}

/// SQL reads one of two columns of a name, and nobody could say which.
#[tokio::test(flavor = "multi_thread")]
async fn two_columns_of_one_name_are_refused() {
    let mut table = Table::default();
    let fields = ["id", "title", "title"].map(|name| Field::new(name, DataType::Utf8, true));
    let columns = [text("1"), text("SECRET"), text("SECRET b")];
    let twins = RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns.to_vec());
    let twins = twins.unwrap();
    for (name, writer) in
        [("n.parquet", parquet as Writer), ("n.arrow", ipc), ("n.arrow", ipc_stream)]
    {
        let mut corpus = corpus(name, "{}").write(name, writer(&twins));
        table.see("twins", &mut corpus, &refused(&["two columns named `title`"])).await;
    }
    let mut old = corpus("n.feather", "{}").write("n.feather", b"FEA1SECRETSECRETFEA1");
    let cell = Cell::Refused(ErrorKind::Unsupported, vec!["Feather of version 1".into()]);
    table.see("Feather of version 1", &mut old, &cell).await;
    table.end(4);
}
