//! Both passes over whole files, with arrow's reader as the other opinion on guessed types.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use proptest::prelude::*;

use super::super::bytes;
use super::super::file::SourceFile;
use super::super::text::{BadRow, Column, Learned};
use super::*;
use crate::corpus::options::{ColumnType, TableOptions, TypeRule};
use crate::error::{Error, Result};

const PLAIN: FileCompressionType = FileCompressionType::UNCOMPRESSED;

fn table(change: impl FnOnce(&mut TableOptions)) -> TableOptions {
    let mut table = TableOptions::new("notes", "notes.csv");
    change(&mut table);
    table
}

/// Columns with their types, as a table of these files has them.
fn columns(table: &TableOptions, files: &[Learned], rule: TypeRule) -> Vec<(usize, Column)> {
    let mut all = files[0].columns.clone();
    for file in &files[1..] {
        all.iter_mut()
            .zip(&file.columns)
            .for_each(|((_, seen), (_, more))| seen.merge(more.clone()));
    }
    let column = |(at, (name, seen)): (usize, (String, super::super::types::Seen))| {
        let declared = table.schema.get(&name).cloned();
        let data_type =
            declared.as_ref().map_or_else(|| seen.csv_type(rule), ColumnType::data_type);
        (at, Column { name, data_type, declared })
    };
    all.into_iter().enumerate().map(column).collect()
}

struct Found {
    learned: Vec<Learned>,
    batches: Vec<RecordBatch>,
}

impl Found {
    /// A column's values as text; `-` where there is none.
    fn texts(&self, column: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for batch in &self.batches {
            let array = batch.column(column);
            let shown = arrow::util::display::ArrayFormatter::try_new(array, &Default::default());
            let shown = shown.unwrap();
            texts.extend((0..array.len()).map(|row| match array.is_null(row) {
                true => "-".to_owned(),
                false => shown.value(row).to_string(),
            }));
        }
        texts
    }

    fn types(&self) -> Vec<DataType> {
        let schema = self.batches[0].schema();
        schema.fields().iter().map(|field| field.data_type().clone()).collect()
    }

    fn bad(&self, file: usize) -> Vec<(u64, &str, &str)> {
        let bad = self.learned[file].bad.first.iter();
        bad.map(|BadRow { line, reason, place }| (*line, *reason, place.as_str())).collect()
    }
}

/// Both passes over some files.
async fn passes(
    files: &[&[u8]],
    table: &TableOptions,
    tabs: bool,
    rule: TypeRule,
) -> Result<Found> {
    let mut sources = Vec::new();
    for (at, bytes) in files.iter().enumerate() {
        sources.push(SourceFile::in_memory(&format!("{at}.csv"), bytes.to_vec()).await);
    }
    let (dialect, learned) =
        learn_files(&sources, PLAIN, table, Dialect::of(table, tabs)?, rule).await?;
    let columns = columns(table, &learned, rule);
    let (table, columns) = (Arc::new(table.clone()), Arc::new(columns));
    let mut batches = Vec::new();
    let learned = Arc::new(learned);
    for (at, file) in sources.iter().enumerate() {
        let (table, columns, learned) = (table.clone(), columns.clone(), learned.clone());
        let some = bytes::read(file, PLAIN, table.encoding, move |reader| {
            let mut some = Vec::new();
            read(reader, dialect, &table, &columns, &learned[at].bad, 3, &mut |batch| {
                some.push(batch);
                Ok(true)
            })?;
            Ok(some)
        });
        batches.extend(some.await?);
    }
    Ok(Found { learned: Arc::into_inner(learned).unwrap(), batches })
}

async fn exact(text: &[u8], table: &TableOptions) -> Found {
    passes(&[text], table, false, TypeRule::Exact).await.unwrap()
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_left_out_and_told() {
    let text = b"id,body\n1,x\n2,\"y\nz\",\n3,\xff\xfe\n\n4\n5,w\n6,v\n7,u\n8,t\n";
    let found = exact(text, &table(|_| ())).await;
    assert_eq!(found.texts(0), ["1", "5", "6", "7", "8"]);
    let sizes: Vec<usize> = found.batches.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(sizes, [3, 2]);
    assert_eq!(
        found.bad(0),
        [
            (3, "wrong number of fields", "3 fields, the header has 2"),
            (5, "not UTF-8", "column `body`"),
            (7, "wrong number of fields", "1 field, the header has 2"),
        ]
    );
    let Learned { rows, bad, .. } = &found.learned[0];
    assert_eq!((*rows, bad.rows.iter().copied().collect::<Vec<_>>()), (8, vec![1, 2, 3]));
    // Nor do their values make a type.
    let found = exact(b"id,n\n1,2\n2,\xff\n3,x,y\n", &table(|_| ())).await;
    assert_eq!(found.types()[1], DataType::Int64);
    let first = table(|t| t.has_header = false);
    let found = exact(b"1,\xff\n2,x\n", &first).await;
    assert_eq!((found.texts(0), found.bad(0)[0].0), (vec!["2".to_owned()], 1));
}

#[tokio::test]
async fn tsv_files_have_quotes_if_a_csv_writer_wrote_them() {
    let tsv = |files: Vec<&'static str>, rule| async move {
        let files: Vec<&[u8]> = files.iter().map(|text| text.as_bytes()).collect();
        passes(&files, &table(|_| ()), true, rule).await.map(|found| found.texts(1))
    };
    for rule in [TypeRule::Exact, TypeRule::Guessed] {
        let quoted = "id\ta\n1\t\"a\tb\nc\"\n2\t\"say \"\"x\"\"\"\n";
        assert_eq!(tsv(vec![quoted], rule).await.unwrap(), ["a\tb\nc", "say \"x\""]);
        let open = "id\ta\n1\t\"a\n2\tb\n3\tc\n";
        assert_eq!(tsv(vec![open], rule).await.unwrap(), ["\"a", "b", "c"]);
        // The quote that closes it stands three rows below.
        let swallows = "id\ta\n1\t\"a\n2\tb\n3\t15\"\n4\t\"d\"\n";
        assert_eq!(tsv(vec![swallows], rule).await.unwrap(), ["\"a", "b", "15\"", "\"d\""]);
        // Over all files together.
        let both = tsv(vec!["id\ta\n1\t\"x\"\n", open], rule).await.unwrap();
        assert_eq!(both, ["\"x\"", "\"a", "b", "c"]);
        // Without quotes the rows have other numbers of fields: so it has some, and they are wrong.
        let neither =
            tsv(vec!["id\ta\n1\t\"a\tb\"\n2\t\"c\n"], rule).await.unwrap_err().to_string();
        assert!(neither.contains("memory:///0.csv: line 3: the quoted field"), "{neither}");
        let header = tsv(vec!["\"id\"\ta\n1\t\"a\n"], rule).await.unwrap_err().to_string();
        assert!(header.contains("line 2: the quoted field"), "{header}");
    }
    let followed = "id\ta\n1\t\"a\" b\n";
    assert_eq!(tsv(vec![followed], TypeRule::Exact).await.unwrap(), ["\"a\" b"]);
    // 0.1.0 read it so.
    assert_eq!(tsv(vec![followed], TypeRule::Guessed).await.unwrap(), ["a b"]);
    let database = table(|t| (t.escape, t.null) = (Some('\\'), Some("\\N".into())));
    let text = b"id\ta\n1\ttab \\t, line \\n, \\\\N\n2\t\\N\n3\t\"x\" y\n";
    let found = passes(&[text], &database, true, TypeRule::Exact).await.unwrap();
    assert_eq!(found.texts(1), ["tab \t, line \n, \\N", "-", "\"x\" y"]);
    let declared = table(|t| t.quote = Some("\"".into()));
    let open = b"id\ta\n1\t\"a\n2\tb\n";
    assert!(passes(&[open], &declared, true, TypeRule::Exact).await.is_err());
}

#[tokio::test]
async fn columns_are_picked_and_batches_end_early() {
    let file = SourceFile::in_memory("0.csv", b"a,b,c\n1,x,7\n2,y,8\n3,z,9\n".to_vec()).await;
    let table = Arc::new(table(|_| ()));
    let (rule, dialect) = (TypeRule::Exact, Dialect::of(&table, false).unwrap());
    let (dialect, learned) = learn_files(&[file], PLAIN, &table, dialect, rule).await.unwrap();
    let all = columns(&table, &learned, rule);
    let run = |picked: &[(usize, Column)], enough: usize| {
        let mut batches = Vec::new();
        let text = &b"a,b,c\n1,x,7\n2,y,8\n3,z,9\n"[..];
        read(text, dialect, &table, picked, &learned[0].bad, 2, &mut |batch| {
            batches.push(batch);
            Ok(batches.len() < enough)
        })
        .unwrap();
        batches
    };
    let picked = run(&[all[2].clone(), all[0].clone()], 9);
    assert_eq!(picked[0].schema().field(0).name(), "c");
    assert_eq!(picked[1].column(0).as_primitive::<Int64Type>().values(), &[9]);
    let counted: usize = run(&[], 9).iter().map(RecordBatch::num_rows).sum();
    assert_eq!(counted, 3);
    assert_eq!(run(&all, 1).len(), 1);
    let changed =
        read(&b"a,b,c\n1,x\n"[..], dialect, &table, &all, &learned[0].bad, 2, &mut |_| Ok(true));
    assert!(changed.unwrap_err().to_string().contains("line 2 is not what it was"));
}

#[tokio::test]
async fn values_that_are_no_values_of_a_guessed_type_are_told_with_their_line() {
    let text = b"id,note\n1,2024-01-01\n2,\n3,2024-02-30\n";
    let error = passes(&[text], &table(|_| ()), false, TypeRule::Guessed).await.err().unwrap();
    let said = error.to_string();
    assert!(said.contains("0.csv: line 4: column `note`: not a value of Date32"), "{said}");
    // By the exact rule it is text.
    assert_eq!(exact(text, &table(|_| ())).await.texts(1), ["2024-01-01", "-", "2024-02-30"]);
}

#[test]
fn long_texts_make_short_batches() {
    let text = "a\n".to_owned() + &format!("{}\n", "x".repeat(3 << 20)).repeat(7);
    let column = Column { name: "a".into(), data_type: DataType::Utf8, declared: None };
    let dialect = Dialect::of(&table(|_| ()), false).unwrap();
    let mut rows = Vec::new();
    let none = Default::default();
    read(text.as_bytes(), dialect, &table(|_| ()), &[(0, column)], &none, 2048, &mut |batch| {
        rows.push(batch.num_rows());
        Ok(true)
    })
    .unwrap();
    assert_eq!(rows, [3, 3, 1]);
}

/// Types and rows as arrow's own reader finds them, which 0.1.0 used.
fn arrow_csv(text: &[u8]) -> Result<(Schema, Vec<RecordBatch>), arrow::error::ArrowError> {
    let format = arrow::csv::reader::Format::default().with_header(true);
    let (schema, _) = format.infer_schema(text, None)?;
    let reader = arrow::csv::ReaderBuilder::new(Arc::new(schema.clone())).with_format(format);
    Ok((schema, reader.build(text)?.collect::<Result<_, _>>()?))
}

fn guessed(text: &[u8]) -> Result<(Schema, Vec<RecordBatch>)> {
    let table = table(|_| ());
    let dialect = Dialect::of(&table, false)?;
    let learning = learn::learn(text, dialect, &table, 0, TypeRule::Guessed, false)?;
    let learn::Learning::Learned(learned) = learning else {
        return Err(Error::internal("no csv"));
    };
    let columns = columns(&table, std::slice::from_ref(&learned), TypeRule::Guessed);
    let mut batches = Vec::new();
    read(text, dialect, &table, &columns, &learned.bad, 1024, &mut |batch| {
        batches.push(batch);
        Ok(true)
    })?;
    let fields = columns.iter().map(|(_, column)| {
        arrow::datatypes::Field::new(&column.name, column.data_type.clone(), true)
    });
    Ok((Schema::new(fields.collect::<Vec<_>>()), batches))
}

/// Values that make types, and what nearly does.
fn any_value() -> impl Strategy<Value = String> {
    let day = "(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|2[0-8])";
    let time = format!("{day}[T ](0[0-9]|1[0-9]):[0-5][0-9]:[0-5][0-9]");
    prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "true",
            "False",
            "TRUE",
            "falſe",
            "nan",
            "NaN",
            "inf",
            "-inf",
            "Infinity",
            "0",
            "-0",
            "007",
            "1.10",
            ".5",
            "1.",
            "1e5",
            "1.e5",
            "-.5E-3",
            "+1",
            "1_000",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "00000000000000000000001",
            "1e999",
            "١٢",
            "\"1",
            "1\"",
            " 1",
            "1 ",
            "-",
            ".",
            "e5",
            "2024-02-30",
            "0001-01-01",
            "2024-01-01T00:00:00+25:00",
            "2024-01-01T00:00:00٣",
            "2024-01-01T00:00:00\nx",
            "2024-01-01T00:00:00.5٣",
            "2024-01-01T00:00:00.",
            "9999-12-31T23:59:59.123456789",
        ])
        .prop_map(str::to_owned),
        "-?[0-9]{1,3}",
        "-?[0-9]{17,21}",
        "-?[0-9]{0,3}\\.[0-9]{0,3}([eE][-+]?[0-9]{1,2})?",
        proptest::string::string_regex(day).unwrap(),
        proptest::string::string_regex(&time).unwrap(),
        proptest::string::string_regex(&format!("{time}\\.[0-9]{{1,10}}(Z|[+]0[0-9]:00| UTC|x)?"))
            .unwrap(),
        proptest::string::string_regex(&format!("{time}(Z|[+-]0[0-9]:?00|x)")).unwrap(),
        "[-+0-9.eETZ:\"tfn ]{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn guessed_types_and_values_are_arrows(
        values in prop_oneof![
            prop::collection::vec(any_value(), 0..4),
            // Of one kind, so that there is a type.
            any_value().prop_map(|value| vec![value.clone(), String::new(), value]),
        ],
    ) {
        let mut text = b"id,value\n".to_vec();
        for value in values {
            text.extend(format!("x,\"{}\"\n", value.replace('"', "\"\"")).bytes());
        }
        let ours = guessed(&text);
        // What arrow could not read, 0.1.0 did not either.
        if let Ok((schema, batches)) = arrow_csv(&text) {
            let (our_schema, our_batches) = ours.unwrap();
            prop_assert_eq!(our_schema, schema);
            prop_assert_eq!(our_batches, batches);
        }
    }
}
