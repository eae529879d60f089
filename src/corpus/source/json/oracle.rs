//! What 0.1.0 read it with: where arrow's own inference and reader take a file, guessed types and values are theirs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::json::ReaderBuilder;
use proptest::prelude::*;

use super::{learn, read};
use crate::corpus::options::{TableOptions, TypeRule};
use crate::corpus::source::text::{BadRows, Column};

/// A JSON value; small, so that fields often are of one kind.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        3 => Just("null".to_owned()),
        3 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        2 => (-9_i32..9).prop_map(|number| number.to_string()),
        2 => prop_oneof!["-?[0-9]\\.[0-9]{1,3}", "[1-9]e-?[0-9]{1,2}", "-0", "[1-9][0-9]{18,30}"],
        2 => any::<bool>().prop_map(|is| is.to_string()),
        4 => string(),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            object(inner),
        ]
    })
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9 ]{0,4}".prop_map(|text| format!("{text:?}")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\ud83d\ude00\u0041\/""#.to_owned()),
    ]
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec(("[abc]", value), 0..4).prop_map(|fields| {
        let fields: Vec<String> =
            fields.into_iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", fields.join(", "))
    })
}

/// Rows whose fields have values of few kinds: most random ones do not fit each other.
fn rows() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        3 => prop::collection::vec(object(value()), 1..5),
        1 => object(value()).prop_map(|row| vec![row; 2]),
        3 => (value(), value(), value()).prop_map(|(one, two, three)| {
            vec![format!("{{\"a\": {one}}}"), format!("{{\"a\": {two}, \"b\": {three}}}"), "{}".into()]
        }),
    ]
}

/// As 0.1.0 read it: all of a table's columns, by name.
fn before(text: &str) -> Option<RecordBatch> {
    let (schema, _) = arrow::json::reader::infer_json_schema(text.as_bytes(), None).ok()?;
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    fields.sort_by(|a, b| a.name().cmp(b.name()));
    let schema = Arc::new(Schema::new(fields));
    let reader = ReaderBuilder::new(Arc::clone(&schema)).build(text.as_bytes()).ok()?;
    let batches = reader.collect::<Result<Vec<_>, _>>().ok()?;
    concat_batches(&schema, &batches).ok()
}

/// As it is read now; none where a field has no common type.
fn now(text: &str, columns_of: &Schema) -> Option<RecordBatch> {
    let learned =
        learn(text.as_bytes(), &TableOptions::new("t", "t"), 0, TypeRule::Guessed, 1 << 20)
            .unwrap();
    assert_eq!(learned.bad, BadRows::default());
    let mut columns = Vec::new();
    for (name, seen) in learned.columns {
        let mut data_type = seen.json_type(TypeRule::Guessed, &name).ok()?;
        if let Ok(field) = columns_of.field_with_name(&name) {
            data_type = with_lists_of_nulls(data_type, field.data_type());
        }
        columns.push(Column { name, data_type, declared: None });
    }
    let mut batches = Vec::new();
    let mut emit = |batch| {
        batches.push(batch);
        Ok(true)
    };
    read(text.as_bytes(), &columns, &learned.bad, 1 << 20, &mut emit).unwrap();
    concat_batches(&batches.first()?.schema(), &batches).ok()
}

/// Arrow calls `[null]` a list of strings, but `[]` a list of nulls, which is what both are here. The contract takes
/// both for strings.
fn with_lists_of_nulls(now: DataType, before: &DataType) -> DataType {
    match (now, before) {
        (DataType::List(item), DataType::List(other)) => {
            let data_type = match (item.data_type(), other.data_type()) {
                (DataType::Null, DataType::Utf8) => DataType::Utf8,
                (item, other) => with_lists_of_nulls(item.clone(), other),
            };
            DataType::new_list(data_type, true)
        }
        (DataType::Struct(fields), DataType::Struct(others)) if fields.len() == others.len() => {
            let typed = fields.iter().zip(others).map(|(field, other)| {
                let data_type = with_lists_of_nulls(field.data_type().clone(), other.data_type());
                Field::new(field.name(), data_type, true)
            });
            DataType::Struct(typed.collect())
        }
        (now, _) => now,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn guessed_is_as_before(rows in rows()) {
        let text = rows.join("\n");
        if let Some(before) = before(&text) {
            let now = now(&text, &before.schema());
            prop_assert_eq!(now, Some(before), "{}", text);
        }
    }

    /// Whatever a file holds, both passes see the same rows, and what the first takes the second reads.
    #[test]
    fn exact_reads_what_it_has_learned(rows in rows(), layout in 0..3) {
        let text = match layout {
            0 => rows.join("\n"),
            1 => format!("[\n{}\n]", rows.join(" ,\n")),
            _ => rows.join(" "),
        };
        let learned = learn(text.as_bytes(), &TableOptions::new("t", "t"), 0, TypeRule::Exact, 1 << 20).unwrap();
        prop_assert_eq!(learned.rows as usize, rows.len());
        let typed = learned.columns.iter().filter_map(|(name, seen)| {
            let data_type = seen.json_type(TypeRule::Exact, name).ok()?;
            Some(Column { name: name.clone(), data_type, declared: None })
        });
        let mut count = 0;
        read(text.as_bytes(), &typed.collect::<Vec<_>>(), &learned.bad, 1 << 20, &mut |batch| {
            count += batch.num_rows();
            Ok(true)
        }).unwrap();
        prop_assert_eq!(count, rows.len() - learned.bad.rows.len());
    }
}
