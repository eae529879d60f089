//! The first pass over a file: its fields, the kinds of their values, and the rows that cannot be read.

use std::io::BufRead;

use super::records::{Record, Records};
use super::value::{Fault, Fields, Value, parse, unescaped};
use crate::corpus::options::{ColumnType, TableOptions, TypeRule};
use crate::corpus::source::named::Named;
use crate::corpus::source::text::{BadRow, Learned, NOT_DECLARED};
use crate::corpus::source::types::{Kind, MOST_FIELDS, Place, Seen};
use crate::error::{Error, Result};

const TOO_GREAT: &str = "a number too great for 64 bits";

/// Reads every row of a file, which is the `file`th of its table; a row has at most `longest_row` bytes.
///
/// # Errors
/// Input where the file does not fall into rows; what the reader says.
pub(in crate::corpus::source) fn learn(
    reader: impl BufRead,
    table: &TableOptions,
    file: usize,
    rule: TypeRule,
    longest_row: usize,
) -> Result<Learned> {
    learn_start(reader, table, file, rule, longest_row, u64::MAX)
}

/// [`learn`] that ends after so many bytes of rows.
///
/// # Errors
/// As there, of what was read.
pub(in crate::corpus::source) fn learn_start(
    reader: impl BufRead,
    table: &TableOptions,
    file: usize,
    rule: TypeRule,
    longest_row: usize,
    most: u64,
) -> Result<Learned> {
    let mut left = most;
    let mut records = Records::new(reader, longest_row)?;
    let mut columns: Named<Seen> = Named::default();
    let mut learned = Learned::default();
    while let Some(record) = records.next()? {
        left = left.saturating_sub(record.bytes.len() as u64);
        let fields = parse(record.bytes, rule).and_then(|fields| {
            check(&fields, table, rule)?;
            Ok(fields)
        });
        match fields {
            Ok(fields) => {
                let place = Place { file, line: record.line };
                for (name, value) in &fields {
                    let seen = columns.entry(name, MOST_FIELDS).ok_or_else(|| crowded(place))?;
                    see(seen, value, place);
                }
            }
            Err(mut fault) => {
                // What is not a row's field may be a text that lost its quotes.
                fault.field = fault
                    .field
                    .filter(|name| columns.contains(name) || table.schema.contains_key(name));
                learned.bad.add(learned.rows, bad_row(&record, &fault));
            }
        }
        learned.rows += 1;
        if left == 0 {
            learned.is_cut = true;
            break;
        }
    }
    learned.is_empty = records.is_empty();
    learned.columns = columns.into_entries();
    learned.columns.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(learned)
}

fn crowded(place: Place) -> Error {
    Error::input(format!(
        "line {}: the rows have more than {MOST_FIELDS} different fields; where notes are named by their ids, make the id a \
         field of each",
        place.line
    ))
}

fn bad_row(record: &Record<'_>, fault: &Fault) -> BadRow {
    let at = fault.at.map(|(line, column)| match line {
        0 => format!("column {}", record.column + column + 1),
        _ => format!("line {} column {}", record.line + line, column + 1),
    });
    let field = fault.field.as_ref().map(|name| format!("field `{name}`"));
    let place = at.into_iter().chain(field).collect::<Vec<_>>().join(", ");
    let place = match &fault.missed {
        Some(missed) => format!("{place} ({missed})"),
        None if place.is_empty() => "the row".to_owned(),
        None => place,
    };
    BadRow { line: record.line, reason: fault.reason, place }
}

/// Whether the values are what the columns can hold.
fn check(fields: &Fields<'_>, table: &TableOptions, rule: TypeRule) -> Result<(), Fault> {
    for (name, value) in fields {
        let reason = match table.schema.get(name.as_ref()) {
            Some(declared) if !is_of(value, declared) => NOT_DECLARED,
            None if rule == TypeRule::Guessed && is_too_great(value) => TOO_GREAT,
            _ => continue,
        };
        return Err(Fault::new(reason).in_field(name));
    }
    Ok(())
}

/// Whether a value is one of a declared type.
fn is_of(value: &Value<'_>, declared: &ColumnType) -> bool {
    match (value, declared) {
        (Value::Null, _) => true,
        (Value::List(items), ColumnType::Strings) => {
            items.iter().all(|item| *item == Value::Null || is_of(item, &ColumnType::String))
        }
        (Value::Text(_), ColumnType::String) => true,
        (Value::Bool(text) | Value::Number(text), _) => declared.holds(text),
        (Value::Text(raw), _) => declared.holds(&unescaped(raw)),
        (Value::List(_) | Value::Object(_), _) => false,
    }
}

/// Whether a number has so many digits that it would be read as an infinite one.
fn is_too_great(value: &Value<'_>) -> bool {
    match value {
        Value::Number(text) => {
            let may_be = text.len() > 300 || text.contains(['e', 'E']);
            may_be && text.parse::<f64>().is_ok_and(f64::is_infinite)
        }
        Value::List(items) => items.iter().any(is_too_great),
        Value::Object(fields) => fields.iter().any(|(_, value)| is_too_great(value)),
        _ => false,
    }
}

fn see(seen: &mut Seen, value: &Value<'_>, place: Place) {
    match value {
        Value::Null => {}
        Value::Bool(_) => seen.see(Kind::Bool, place),
        Value::Number(text) => seen.see(Kind::number(text), place),
        Value::Text(_) => seen.see(Kind::Text, place),
        Value::List(items) => {
            let inner = seen.list(place);
            items.iter().for_each(|item| see(inner, item, place));
        }
        Value::Object(fields) => {
            let object = seen.object(place);
            for (name, value) in fields {
                if let Some(field) = object.field(name, place) {
                    see(field, value, place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::corpus::options::TimeFormat;

    fn learned(text: &str, table: &TableOptions, rule: TypeRule) -> Learned {
        learn(text.as_bytes(), table, 0, rule, 1 << 20).unwrap()
    }

    fn types(text: &str, rule: TypeRule) -> Vec<(String, DataType)> {
        let learned = learned(text, &TableOptions::new("t", "t"), rule);
        assert_eq!(learned.bad.first, []);
        let typed = |(name, seen): (String, Seen)| {
            let data_type = seen.json_type(rule, &name).unwrap();
            (name, data_type)
        };
        learned.columns.into_iter().map(typed).collect()
    }

    fn list(item: DataType) -> DataType {
        DataType::new_list(item, true)
    }

    #[test]
    fn exact_types_keep_every_digit() {
        for (text, expected) in [
            (r#"{"a": 1}{"a": null}{"a": -7}{"b": 1}"#, DataType::Int64),
            (r#"{"a": 1.5}{"a": -0.25}"#, DataType::Float64),
            (r#"{"a": true}{"a": false}"#, DataType::Boolean),
            (r#"{"a": "7"}{"a": "x"}"#, DataType::Utf8),
            (r#"{"a": null}"#, DataType::Null),
            (r#"{"a": 1}{"a": 1.5}"#, DataType::Utf8),
            (r#"{"a": 1.10}"#, DataType::Utf8),
            (r#"{"a": 1e5}"#, DataType::Utf8),
            (r#"{"a": -0}"#, DataType::Utf8),
            (r#"{"a": 1}{"a": 12345678901234567890}"#, DataType::Utf8),
            (r#"{"a": ["x"]}{"a": []}{"a": null}"#, list(DataType::Utf8)),
            (r#"{"a": [1, 2.5, null]}"#, list(DataType::Utf8)),
            (r#"{"a": [[1], []]}"#, list(list(DataType::Int64))),
            (
                r#"{"a": {"z": 1, "b": [{"c": 1.10}]}}"#,
                DataType::Struct(
                    vec![
                        Field::new("z", DataType::Int64, true),
                        Field::new(
                            "b",
                            list(DataType::Struct(
                                vec![Field::new("c", DataType::Utf8, true)].into(),
                            )),
                            true,
                        ),
                    ]
                    .into(),
                ),
            ),
        ] {
            assert_eq!(types(text, TypeRule::Exact)[0], ("a".to_owned(), expected), "{text}");
        }
    }

    #[test]
    fn mixed_values_name_both_lines() {
        let table = TableOptions::new("t", "t");
        for rule in [TypeRule::Guessed, TypeRule::Exact] {
            let text = "{\"a\": {\"b\": null}}\n\n{\"a\": {\"b\": [1]}}\n{\"a\": {\"b\": \"x\"}}\n";
            let learned = learned(text, &table, rule);
            let conflict = learned.columns[0].1.json_type(rule, "a").unwrap_err();
            assert_eq!(conflict.field, "a.b");
            let place = |line| Place { file: 0, line };
            assert_eq!(conflict.one, ("a list", place(3)));
            assert_eq!(conflict.other, ("a string", place(4)));
        }
    }

    #[test]
    fn bad_rows_are_counted_and_change_no_type() {
        let mut table = TableOptions::new("t", "t");
        table.schema.insert("n".into(), ColumnType::Integer);
        let text = concat!(
            "{\"a\": 1, \"n\": \"7\"}\n",
            "{\"a\": \"x\", \"n\": 1.5}\n",
            "{\"a\": 1\n",
            "\n",
            "  [1]\n",
            "{\"a\": NaN}\n",
            "{\"a\": [\"\\ud800\"]}\n",
            "{\"a\": \"x\"} {}\n",
            "{\"text that lost its quotes\": x}\n",
            "{\"a\": 2, \"n\": null}",
        );
        let learned = learned(text, &table, TypeRule::Exact);
        assert_eq!(learned.rows, 9);
        assert_eq!(learned.bad.rows.iter().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        let said = |row: &BadRow| format!("line {}: {}: {}", row.line, row.place, row.reason);
        assert_eq!(
            learned.bad.first.iter().map(said).collect::<Vec<_>>(),
            [
                "line 2: field `n`: not of the declared type",
                "line 3: column 7, field `a` (EOF while parsing an object): not JSON",
                "line 5: the row: not a JSON object",
                "line 6: column 7, field `a`: NaN or Infinity, which is not JSON",
                "line 7: column 8, field `a`: half a surrogate pair, which is not a character",
                "line 8: column 12: more than one object in a line",
                "line 9: column 31 (expected value): not JSON",
            ]
        );
        let a = learned.columns[0].1.json_type(TypeRule::Exact, "a");
        assert_eq!(a, Ok(DataType::Int64), "not as the bad rows have it");
    }

    #[test]
    fn the_place_of_a_row_over_several_lines_is_that_of_the_fault() {
        let text = "[\n  {\"a\": 1},\n  {\n    \"a\": x\n  }, {\"a\": y}]";
        let learned = learned(text, &TableOptions::new("t", "t"), TypeRule::Exact);
        let places: Vec<_> =
            learned.bad.first.iter().map(|row| (row.line, row.place.as_str())).collect();
        let at = |place: &str| format!("{place}, field `a` (expected value)");
        let (one, other) = (at("line 4 column 10"), at("column 12"));
        assert_eq!(places, [(3, one.as_str()), (5, other.as_str())]);
    }

    #[test]
    fn declared_types_are_those_of_the_text() {
        let format = TimeFormat { timestamp: "%m/%d/%Y".into() };
        for (declared, good, bad) in [
            (ColumnType::String, r#""x" 1.10 true null"#, r#"[] {}"#),
            (ColumnType::Integer, r#"1 "1" null"#, r#"1.0 "" true 9223372036854775808 [1]"#),
            (ColumnType::Float, r#"1 1.5 1e5 "1""#, r#"1e999 "x" true"#),
            (ColumnType::Boolean, r#"true "False" 1"#, r#"2 "yes" {}"#),
            (ColumnType::Date, r#""2024-10-01""#, r#""2024-9-31" 20241001"#),
            (ColumnType::Timestamp, r#""2024-10-01T00:00:00Z" "2024-10-01""#, r#"1727740800"#),
            (ColumnType::Time(format), r#""10/01/2024""#, r#""2024-10-01""#),
            (ColumnType::Strings, r#"["x",null,1.10,true] [] null"#, r#""x" 1 [[]] [{}] {}"#),
        ] {
            let mut table = TableOptions::new("t", "t");
            table.schema.insert("a".into(), declared.clone());
            for (values, is_good) in [(good, true), (bad, false)] {
                for value in values.split(' ') {
                    let row = format!("{{\"a\": {value}}}");
                    let learned = learned(&row, &table, TypeRule::Guessed);
                    let is_bad = learned.bad.rows.contains(&0);
                    assert_eq!(is_bad, !is_good, "{declared:?} {value}");
                }
            }
        }
    }

    #[test]
    fn guessed_numbers_fit_64_bits() {
        let text = "{\"a\": 1e999}\n{\"a\": [{\"b\": -1e400}]}\n{\"a\": 1e308}\n";
        let table = TableOptions::new("t", "t");
        let guessed = learned(text, &table, TypeRule::Guessed);
        assert_eq!(guessed.bad.reasons[TOO_GREAT], 2);
        let exact = learned(&text.replace("[{\"b\": -1e400}]", "1"), &table, TypeRule::Exact);
        assert_eq!(exact.bad.rows.len(), 0, "text has room for them");
    }

    #[test]
    fn objects_that_are_maps_are_no_columns() {
        let fields = |from: usize, to: usize| {
            let fields: Vec<String> = (from..to).map(|at| format!("\"f{at}\": 1")).collect();
            fields.join(", ")
        };
        let (half, rest) = (fields(0, MOST_FIELDS), fields(MOST_FIELDS - 1, MOST_FIELDS + 1));
        let text = format!("{{\"a\": {{{half}}}, \"b\": 1}}\n{{\"a\": {{{rest}}}, \"b\": 2}}\n");
        let table = TableOptions::new("t", "t");
        let learned = learned(&text, &table, TypeRule::Exact);
        let conflict = learned.columns[0].1.json_type(TypeRule::Exact, "a").unwrap_err();
        assert_eq!((conflict.other.1.line, conflict.field.as_str()), (2, "a"));
        assert_eq!(learned.columns[1].1.json_type(TypeRule::Exact, "b"), Ok(DataType::Int64));
        let text = format!("{{{half}}}\n{{{rest}}}\n");
        let failed = learn(text.as_bytes(), &table, 0, TypeRule::Exact, 1 << 20).unwrap_err();
        assert!(failed.to_string().starts_with("line 2: the rows have more than"), "{failed}");
    }
}
