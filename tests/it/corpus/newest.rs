//! Newest wins, or a refusal: never a silent guess.

use std::sync::Arc;

use parquet::basic::Repetition;
use parquet::data_type::{ByteArray, ByteArrayType, Int96, Int96Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use scalingnote::corpus::TypeRule;
use scalingnote::error::ErrorKind;
use scalingnote::observe::Event;

use super::Corpus;
use crate::house::hostile::targets::files::{ipc, parquet};

const SQL: &str = "SELECT id AS note_id, title, edited AS updated_at FROM notes";

/// Rows of one note, the newest first, and of another one that nothing is compared with.
fn corpus(times: &[&str]) -> Corpus {
    let mut jsonl =
        "{\"id\": 1, \"title\": \"alone\", \"edited\": \"no time at all\"}\n".to_owned();
    for (age, time) in times.iter().enumerate() {
        jsonl +=
            &serde_json::json!({"id": 7, "title": format!("t{age}"), "edited": time}).to_string();
        jsonl += "\n";
    }
    Corpus::new("n.jsonl", SQL).write("n.jsonl", jsonl)
}

async fn newest(corpus: &Corpus) -> String {
    let texts = corpus.texts().await;
    assert_eq!(texts.len(), 2);
    texts[1].1.clone()
}

fn warnings(corpus: &Corpus) -> Vec<String> {
    let events = corpus.reporter.events().into_iter();
    events
        .filter_map(|(_, event)| match event {
            Event::Warning { message } => Some(message),
            _ => None,
        })
        .collect()
}

/// What a refusal or a warning says to write in the SQL.
fn way_out(text: &str) -> String {
    let (_, sql) = text.split_once("in corpus.sql: ").unwrap_or_else(|| panic!("{text}"));
    sql.split_once(" AS updated_at").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_known_spelling_is_in_the_order_of_time() {
    for times in [
        &["2024-10-01", "2024-09-01"][..],
        &["2024-10-1", "2024-9-1", "2023-12-31"],
        &["2024/10/01", "2024/09/01"],
        &["2024-09-01T10:00:00Z", "2024-09-01T11:30:00+02:00", "2024-09-01 09:00"],
        &["2024-09-01T10:00:00.25", "2024-09-01T10:00:00.2"],
        &["Wed, 2 Jul 2003 00:00:00 +0200", "Tue, 1 Jul 2003 23:30:00 +0200"],
        &["Wed, 2 Jul 2003 00:00:00 +0200", "2003-07-01T21:59:59Z"],
        &["1000", "999", "-5"],
        &["10000-01-01", "9999-12-31", "1600-01-01", "-0044-03-15"],
        &["300000-01-01", "2024-01-01"],
        &["2024-09-01", "", ""],
    ] {
        let mut reversed = times.to_vec();
        reversed.reverse();
        assert_eq!(newest(&corpus(times)).await, "t0", "{times:?}");
        assert_eq!(newest(&corpus(&reversed)).await, format!("t{}", times.len() - 1), "{times:?}");
    }
}

/// Each refusal names the note, the column and the way out; the way out makes the first of the times win.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_ordered_is_refused_with_a_way_out() {
    for (times, format) in [
        (&["10/01/2024", "9/2/2024"][..], Some("%m/%d/%Y")),
        (&["25/09/2024", "12/09/2024"], Some("%d/%m/%Y")),
        (&["02.10.2024", "30.09.2024"], Some("%d.%m.%Y")),
        (&["01.10.24 10:00", "02.09.24 11:30"], Some("%d.%m.%y %H:%M")),
        (&["10/01/2024 1:00:00 PM", "10/01/2024 11:00:00 AM"], Some("%m/%d/%Y %I:%M:%S %p")),
        (&["10/01/2024 13:00:00.5", "10/01/2024 13:00:00"], Some("%m/%d/%Y %H:%M:%S%.f")),
        (&["10/01/2024", "2024-09-30T10:00:00Z", "2024-09-30", "2024-09-29 10:00:00"], None),
        (&["v10", "v9"], None),
        (&["1725148800.25", "1725148800.125"], None),
        (&["2024-09-01T00:00:01Z", "1725148800"], None),
    ] {
        let mut corpus = corpus(times);
        let error = corpus.fails().await;
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Input, "{text}");
        for word in ["note i:7", "`updated_at`", "AS updated_at"] {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        for time in times {
            assert!(!text.contains(time), "a value is in: {text}");
        }
        let declared =
            format.map(|format| format!("schema = {{ edited = {{ timestamp = \"{format}\" }} }}"));
        assert!(declared.is_none_or(|declared| text.contains(&declared)), "{text}");
        let (left, right) = SQL.split_once("edited AS").unwrap();
        corpus.options.sql = format!("{left}{} AS{right} WHERE id = 7", way_out(&text));
        let texts = corpus.texts().await;
        assert_eq!(texts, [("i:7".to_owned(), "t0".to_owned())], "{text}");
    }
    let error = corpus(&["draft", "final"]).fails().await.to_string();
    assert!(error.contains("to_timestamp(edited, 'FORMAT') AS updated_at"), "{error}");
    // Rows that agree need no order, nor do rows of different notes.
    assert_eq!(newest(&corpus(&["09/01/2024", "09/01/2024"])).await, "t1");
    assert_eq!(newest(&corpus(&["v1"])).await, "t0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_depend_on_the_order_of_rows() {
    let times = ["2024-09-01", "1725148800", "2024-10-01", ""];
    for turn in 0..times.len() {
        let mut turned = times.to_vec();
        turned.rotate_left(turn);
        let error = corpus(&turned).fails().await;
        assert!(error.to_string().contains("one is a number"), "{error}");
    }
}

/// Version 1 keeps the row that it always took, and says where that was a guess.
#[tokio::test(flavor = "multi_thread")]
async fn version_1_keeps_its_winner_and_warns() {
    for (times, winner, words) in [
        (&["2024-10-1", "2024-9-1"][..], "t1", "version = 2"),
        (&["v10", "v9"], "t1", "regexp_replace"),
        (&["10/01/2024", "9/2/2024"], "t1", "%m/%d/%Y"),
        (&["10000-01-01", "2024-01-01"], "t1", "version = 2"),
        (&["2024-09-01", "1725148800"], "t0", "one is a number"),
    ] {
        let mut corpus = corpus(times);
        corpus.options.types = TypeRule::Guessed;
        assert_eq!(newest(&corpus).await, winner, "{times:?}");
        let warnings = warnings(&corpus);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for word in ["1 note has", "note i:7", "`updated_at`", words] {
            assert!(warnings[0].contains(word), "`{word}` is not in: {}", warnings[0]);
        }
    }
    let mut sure = corpus(&["2024-10-01", "2024-09-01"]);
    sure.options.types = TypeRule::Guessed;
    assert_eq!(newest(&sure).await, "t0");
    assert_eq!(warnings(&sure), [""; 0]);

    let mut jsonl = String::new();
    for id in 0..5000 {
        for time in ["v1", "v2", "v3"] {
            jsonl += &format!("{{\"id\": {id}, \"title\": \"t\", \"edited\": \"{time}\"}}\n");
        }
    }
    let mut many = Corpus::new("n.jsonl", SQL).write("n.jsonl", jsonl);
    many.options.types = TypeRule::Guessed;
    many.prepare().await.unwrap();
    assert!(warnings(&many)[0].starts_with("5,000 notes"), "{:?}", warnings(&many));
}

/// Nanoseconds of a day and its Julian number, as Hive, Impala and old Spark write times.
fn int96(days_since_1970: i64, nanos: u64) -> Int96 {
    let mut value = Int96::new();
    let julian = u32::try_from(days_since_1970 + 2_440_588).unwrap();
    value.set_data(nanos as u32, (nanos >> 32) as u32, julian);
    value
}

fn int96_file(rows: &[(&str, &str, Int96)]) -> Vec<u8> {
    let column = |name: &str, physical| {
        let column =
            Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        Arc::new(if physical == parquet::basic::Type::INT96 {
            column.build().unwrap()
        } else {
            column.with_converted_type(parquet::basic::ConvertedType::UTF8).build().unwrap()
        })
    };
    let text = parquet::basic::Type::BYTE_ARRAY;
    let fields = vec![
        column("id", text),
        column("title", text),
        column("edited", parquet::basic::Type::INT96),
    ];
    let schema = Type::group_type_builder("notes").with_fields(fields).build().unwrap();
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for field in 0..2 {
        let texts: Vec<ByteArray> =
            rows.iter().map(|row| if field == 0 { row.0 } else { row.1 }.into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
    }
    let times: Vec<Int96> = rows.iter().map(|row| row.2).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int96Type>().write_batch(&times, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn int96_times_of_every_year_are_what_they_are() {
    const NOON: u64 = 12 * 3600 * 1_000_000_000;
    // 9999-12-31, 2024-09-01 and 1600-02-29 in days since 1970.
    let (last, today, old) =
        (int96(2_932_896, NOON), int96(19_967, NOON + 1_000), int96(-135_081, NOON));
    let rows = [
        ("a", "now", today),
        ("a", "forever", last),
        ("b", "now", today),
        ("b", "long ago", old),
        ("c", "old", old),
    ];
    for strict in [false, true] {
        let mut corpus = Corpus::new("n.parquet", SQL).write("n.parquet", int96_file(&rows));
        if !strict {
            corpus.options.types = TypeRule::Guessed;
        }
        corpus.options.template = "{{ title }} {{ updated_at }}".into();
        corpus.options.stored_columns = vec!["updated_at".into()];
        let texts: Vec<_> = corpus.texts().await.into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            texts,
            [
                "forever 9999-12-31T12:00:00",
                "now 2024-09-01T12:00:00.000001",
                "old 1600-02-29T12:00:00"
            ]
        );
        corpus.options.sql = format!("{SQL} WHERE edited > TIMESTAMP '2200-01-01T00:00:00'");
        assert_eq!(corpus.texts().await.len(), 1);
    }
}

/// Columns with a unit hold years that nanoseconds do not; two files of a table may have two units.
#[tokio::test(flavor = "multi_thread")]
async fn far_dates_of_every_unit_win() {
    use arrow::array::*;
    // 9999-12-31T00:00:00 and 1600-02-29T00:00:00.
    let (late, early) = (253_402_214_400_i64, -11_670_998_400_i64);
    let times: [(&str, ArrayRef); 5] = [
        ("9999-12-31T00:00:00", Arc::new(TimestampSecondArray::from(vec![early, late]))),
        (
            "9999-12-31T00:00:00Z",
            Arc::new(
                TimestampMillisecondArray::from(vec![early * 1000, late * 1000])
                    .with_timezone("UTC"),
            ),
        ),
        (
            "9999-12-31T00:00:00",
            Arc::new(TimestampMicrosecondArray::from(vec![early * 1_000_000, late * 1_000_000])),
        ),
        ("9999-12-31T00:00:00", Arc::new(Date64Array::from(vec![early * 1000, late * 1000]))),
        ("9999-12-31", Arc::new(Date32Array::from(vec![-135_081, 2_932_896]))),
    ];
    for (printed, edited) in times {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![7, 7])) as ArrayRef),
            ("title", Arc::new(StringArray::from(vec!["old", "new"])) as ArrayRef),
            ("edited", Arc::clone(&edited)),
        ])
        .unwrap();
        let mut corpus = Corpus::new("n.arrow", SQL).write("n.arrow", ipc(&batch));
        corpus.options.template = "{{ title }} {{ updated_at }}".into();
        let texts = corpus.texts().await;
        assert_eq!(texts, [("i:7".to_owned(), format!("new {printed}"))], "{}", edited.data_type());
    }
    // The last second of 64 bits has no date to print, which is not a reason to be older than the others.
    let edited: ArrayRef = Arc::new(TimestampSecondArray::from(vec![0, i64::MAX]));
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![7, 7])) as ArrayRef),
        ("title", Arc::new(StringArray::from(vec!["old", "new"])) as ArrayRef),
        ("edited", edited),
    ])
    .unwrap();
    let mut corpus = Corpus::new("n.parquet", SQL).write("n.parquet", parquet(&batch));
    assert_eq!(corpus.texts().await, [("i:7".to_owned(), "new".to_owned())]);
    corpus.options.template = "{{ title }} {{ updated_at }}".into();
    let error = corpus.fails().await.to_string();
    assert!(error.contains("template failed") && error.contains("i:7"), "{error}");
}
