//! What a refusal says to write is written, and works.

use std::sync::Arc;

use arrow::array::*;
use arrow::compute::{cast, take};
use arrow::datatypes::*;
use scalingnote::error::{Error, ErrorKind};

use super::Corpus;
use crate::house::hostile::targets::files::ipc;

/// What stands between "convert it: " and the column's name.
fn hint(error: &Error, column: &str) -> Option<String> {
    let text = error.to_string();
    let (_, advice) = text.split_once("convert it: ")?;
    let (sql, _) = advice.split_once(&format!(" AS {column}"))?;
    Some(sql.to_owned())
}

/// `None` for types that Parquet does not have.
fn parquet(batch: &RecordBatch) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, batch.schema(), None).ok()?;
    writer.write(batch).ok()?;
    writer.close().ok()?;
    Some(out)
}

/// A corpus whose column `X y` becomes the column that is tested: the name needs quotes.
fn corpus(column: &str, values: &ArrayRef, sql: &str, format: &str) -> Option<Corpus> {
    let ids = if column == "updated_at" { [1, 1] } else { [1, 2] };
    let titles = if column == "updated_at" { ["old", "new"] } else { ["t", "t"] };
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef, true),
        ("words", Arc::new(StringArray::from_iter_values(titles)) as ArrayRef, true),
        ("X y", Arc::clone(values), true),
    ])
    .unwrap();
    let bytes = if format == "arrow" { ipc(&batch) } else { parquet(&batch)? };
    let id = if column == "note_id" { "" } else { "id AS note_id, " };
    let title = if column == "title" { "" } else { ", words AS title" };
    let sql = format!("SELECT {id}{sql} AS {column}{title} FROM notes ORDER BY 1 LIMIT 100");
    let name = format!("n.{format}");
    let mut corpus = Corpus::new(&name, &sql).write(&name, bytes);
    corpus.options.template = match column {
        "topics" => "{{ title }} {{ topics | join(',') }}".into(),
        "likes" => "{{ title }} {{ likes }}".into(),
        "body" => "{{ body }}".into(),
        _ => "{{ title }}".into(),
    };
    if column == "likes" {
        corpus.options.stored_columns = vec!["likes".into()];
    }
    Some(corpus)
}

/// What the corpus comes to once the column is returned as the refusal says; `None` where it says that nothing helps.
async fn followed(column: &str, values: &ArrayRef, format: &str) -> Option<Vec<(String, String)>> {
    let plain = corpus(column, values, "\"X y\"", format)?;
    let error = match plain.prepare().await {
        Ok(_) => return Some(plain.texts().await),
        Err(error) => error,
    };
    let what = format!("{column} of {} in {format}", values.data_type());
    assert!([ErrorKind::Config, ErrorKind::Input].contains(&error.kind()), "{what}: {error}");
    let Some(mut sql) = hint(&error, column) else {
        assert!(error.to_string().contains("no expression of corpus.sql"), "{what}: {error}");
        return None;
    };
    assert!(sql.contains("\"X y\""), "{what}: {error}");
    if error.to_string().contains("where KEY is") {
        sql = sql.replace("KEY", "k");
    }
    let converted = corpus(column, values, &sql, format).unwrap();
    match converted.prepare().await {
        Ok(_) => Some(converted.texts().await),
        Err(next) => panic!("{what}: the way out of `{error}` leads to `{next}`"),
    }
}

/// Two rows of every type; the second is true, later and greater.
fn all_types(column: &str) -> Vec<ArrayRef> {
    let texts = match column {
        "deleted" => ["N", "Y"],
        "updated_at" => ["2024-09-01", "2024-10-01"],
        _ => ["a", "b"],
    };
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let ints: ArrayRef = Arc::new(Int64Array::from(vec![0, 1]));
    let bytes: ArrayRef = match column {
        "deleted" => Arc::new(BinaryArray::from_iter_values([[0], [1]])),
        _ => Arc::new(BinaryArray::from_iter_values(texts)),
    };
    let to = |from: &ArrayRef, t: DataType| cast(from, &t).unwrap();
    let mut all: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![false, true])),
        Arc::new(IntervalYearMonthArray::from(vec![0, 1])),
        Arc::new(IntervalDayTimeArray::from(vec![
            IntervalDayTimeType::make_value(0, 0),
            IntervalDayTimeType::make_value(0, 1),
        ])),
        Arc::new(IntervalMonthDayNanoArray::from(vec![
            IntervalMonthDayNanoType::make_value(0, 0, 0),
            IntervalMonthDayNanoType::make_value(0, 0, 1_000_000),
        ])),
    ];
    use DataType as T;
    for t in [
        T::Int8,
        T::Int16,
        T::Int32,
        T::Int64,
        T::UInt8,
        T::UInt16,
        T::UInt32,
        T::UInt64,
        T::Float16,
        T::Float32,
        T::Float64,
        T::Decimal32(9, 0),
        T::Decimal64(18, 3),
        T::Decimal128(38, 0),
        T::Decimal128(38, 9),
        T::Decimal128(20, 12),
        T::Decimal256(76, 2),
    ] {
        all.push(to(&ints, t));
    }
    let small = to(&ints, T::Int32);
    all.push(to(&small, T::Date32));
    all.push(to(&ints, T::Date64));
    for unit in
        [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond]
    {
        all.push(to(&ints, T::Timestamp(unit, None)));
        all.push(to(&ints, T::Timestamp(unit, Some("+02:00".into()))));
        all.push(to(&ints, T::Duration(unit)));
        match unit {
            TimeUnit::Second | TimeUnit::Millisecond => all.push(to(&small, T::Time32(unit))),
            _ => all.push(to(&ints, T::Time64(unit))),
        }
    }
    for t in [T::Utf8, T::LargeUtf8, T::Utf8View, T::Binary, T::LargeBinary, T::BinaryView] {
        let from = if format!("{t}").contains("Binary") { &bytes } else { &text };
        all.push(to(from, t));
    }
    let width = if column == "updated_at" { 10 } else { 1 };
    all.push(to(&bytes, T::FixedSizeBinary(width)));
    for (values, keys) in [(&text, T::Int8), (&ints, T::Int32), (&bytes, T::UInt16)] {
        let t = values.data_type().clone();
        all.push(to(values, T::Dictionary(Box::new(keys), Box::new(t))));
    }
    for values in [&text, &ints] {
        let (name, item) =
            (values.data_type().clone(), Field::new("item", values.data_type().clone(), true));
        let runs = Int32Array::from(vec![1, 2]);
        all.push(Arc::new(RunArray::try_new(&runs, values.as_ref()).unwrap()));
        // One item a row.
        let list = to(values, DataType::new_list(name, true));
        for t in [
            T::LargeList(Arc::new(item.clone())),
            T::FixedSizeList(Arc::new(item.clone()), 1),
            T::ListView(Arc::new(item)),
        ] {
            all.push(to(&list, t));
        }
        all.push(list);
    }
    let of = |name: &str, values: &ArrayRef| -> ArrayRef {
        let field = Arc::new(Field::new(name, values.data_type().clone(), true));
        Arc::new(StructArray::from(vec![(field, Arc::clone(values))]))
    };
    all.push(of("$oid", &text));
    all.push(of("it's a \"name\"", &text));
    all.push(of("outer", &of("$numberLong", &text)));
    all.push(of("bytes", &bytes));
    let structs = of("name", &text);
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1]);
    let item = Arc::new(Field::new_list_field(structs.data_type().clone(), true));
    all.push(Arc::new(ListArray::new(item, offsets, structs, None)));
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for text in texts {
        map.keys().append_value("k");
        map.values().append_value(text);
        map.append(true).unwrap();
    }
    all.push(Arc::new(map.finish()));
    if column == "deleted" {
        // Not deleted is a null here, so that "any value means deleted" can be seen.
        let rows = UInt32Array::from(vec![None, Some(1)]);
        all = all.iter().map(|values| take(values, &rows, None).unwrap()).collect();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_out_leads_out() {
    for column in ["note_id", "title", "body", "topics", "likes", "updated_at", "deleted"] {
        let (mut led_out, mut none) = (0, Vec::new());
        for values in all_types(column) {
            for format in ["arrow", "parquet"] {
                if format == "parquet" && corpus(column, &values, "1", format).is_none() {
                    continue;
                }
                let Some(texts) = followed(column, &values, format).await else {
                    none.push(values.data_type().clone());
                    continue;
                };
                led_out += 1;
                let what = format!("{column} of {} in {format}: {texts:?}", values.data_type());
                match column {
                    "updated_at" => assert_eq!(texts, [("i:1".into(), "new".into())], "{what}"),
                    "deleted" => assert_eq!(texts, [("i:1".into(), "t".into())], "{what}"),
                    "note_id" => assert_eq!(texts.len(), 2, "{what}"),
                    _ => assert!(texts.len() == 2 && texts[0].1 != texts[1].1, "{what}"),
                }
            }
        }
        assert!(led_out > 90, "{column}: {led_out}");
        // Only lists of structs have no way out in SQL, where a list or a text is wanted.
        let lists =
            none.iter().all(|t| matches!(t, DataType::List(item) if item.data_type().is_nested()));
        assert!(lists, "{column}: {none:?}");
        assert_eq!(
            none.is_empty(),
            ["updated_at", "deleted"].contains(&column),
            "{column}: {none:?}"
        );
    }
}

async fn ids(values: ArrayRef) -> Vec<String> {
    let texts = followed("note_id", &values, "parquet").await.unwrap();
    texts.into_iter().map(|(id, _)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_stay_apart_and_whole() {
    let uuids = [[0x0f_u8; 16], [0xf0; 16]];
    let uuids = FixedSizeBinaryArray::try_from_iter(uuids.iter()).unwrap();
    assert_eq!(
        ids(Arc::new(uuids)).await,
        [format!("s:{}", "0f".repeat(16)), format!("s:{}", "f0".repeat(16))]
    );
    let large = UInt64Array::from(vec![u64::MAX - 1, u64::MAX]);
    assert_eq!(ids(Arc::new(large)).await, ["s:18446744073709551614", "s:18446744073709551615"]);
    let digits = [
        99_999_999_999_999_999_999_999_999_999_999_999_998_i128,
        99_999_999_999_999_999_999_999_999_999_999_999_999,
    ];
    let decimals = Decimal128Array::from(digits.to_vec()).with_precision_and_scale(38, 0).unwrap();
    assert_eq!(ids(Arc::new(decimals)).await, digits.map(|digits| format!("s:{digits}")));
    let halves = Float64Array::from(vec![1.25, 1.5]);
    assert_eq!(ids(Arc::new(halves)).await, ["s:1.25", "s:1.5"]);
    let mut lists = ListBuilder::new(Int64Builder::new());
    lists.append_value([Some(1), Some(2)]);
    lists.append_value([Some(12)]);
    assert_eq!(ids(Arc::new(lists.finish())).await, ["s:1/2", "s:12"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_are_what_they_say() {
    let flags: [ArrayRef; 4] = [
        Arc::new(Int32Array::from(vec![0, 1])),
        Arc::new(Float64Array::from(vec![0.0, 0.5])),
        Arc::new(StringArray::from(vec!["FALSE", "true"])),
        Arc::new(BinaryArray::from_iter_values([[0], [1]])),
    ];
    for values in flags {
        let texts = followed("deleted", &values, "parquet").await.unwrap();
        assert_eq!(texts, [("i:1".to_owned(), "t".to_owned())], "{}", values.data_type());
    }
    let mut lists = ListBuilder::new(Int64Builder::new());
    lists.append_value([Some(1), Some(2)]);
    lists.append_value([Some(12)]);
    let lists: ArrayRef = Arc::new(lists.finish());
    let texts = followed("topics", &lists, "parquet").await.unwrap();
    assert_eq!(
        texts,
        [("i:1".to_owned(), "t 1,2".to_owned()), ("i:2".to_owned(), "t 12".to_owned())]
    );
    let texts = followed("title", &lists, "parquet").await.unwrap();
    assert_eq!(texts, [("i:1".to_owned(), "1 2".to_owned()), ("i:2".to_owned(), "12".to_owned())]);
}

/// What is not a column of a table is converted around the query.
#[tokio::test(flavor = "multi_thread")]
async fn expressions_are_converted_around_the_query() {
    let sql = "SELECT id * 1.5 AS note_id, title FROM notes";
    let csv = "id,title,Key,at\n1,one,a,1\n2,two,b,2\n";
    let mut corpus = Corpus::new("n.csv", sql).write("n.csv", csv);
    let error = corpus.fails().await.to_string();
    let around = error.split_once("around the query: ").unwrap().1;
    let around = around.split_once("FROM (…)").unwrap().0;
    corpus.options.sql = format!("{around} FROM ({sql})");
    let ids: Vec<_> = corpus.texts().await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["s:1.5", "s:3.0"]);

    // Two tables have a column of the name.
    corpus.options.sql =
        "SELECT a.at AS title, a.id AS note_id FROM notes a JOIN notes b USING (id)".into();
    let error = corpus.fails().await;
    let sql = hint(&error, "title").unwrap();
    corpus.options.sql =
        format!("SELECT {sql} AS title, a.id AS note_id FROM notes a JOIN notes b USING (id)");
    assert_eq!(corpus.texts().await.len(), 2, "{error}");

    // A name of our own, and one that is spelled another way.
    corpus.options.sql = "SELECT id AS note_id, title, \"Key\" AS key FROM notes".into();
    corpus.options.stored_columns = vec!["key".into()];
    let error = corpus.fails().await.to_string();
    let renamed = error.split_once("the one to store: ").unwrap().1;
    corpus.options.sql = format!("SELECT id AS note_id, title, {renamed} FROM notes");
    corpus.options.stored_columns = vec!["note_key".into()];
    assert_eq!(corpus.texts().await.len(), 2, "{error}");
    corpus.options.sql = "SELECT id AS note_id, title, \"Key\" FROM notes".into();
    corpus.options.stored_columns = vec!["ke".into()];
    let error = corpus.fails().await.to_string();
    let nearest = error.split_once(": write ").unwrap().1.split_once(" if it is meant").unwrap().0;
    corpus.options.sql = format!("SELECT id AS note_id, title, {nearest} FROM notes");
    assert_eq!(corpus.texts().await.len(), 2, "{error}");
}
