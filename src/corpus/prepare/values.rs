//! Column types that are accepted, their normal form, and the bytes that digests are made of.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, StringArray};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Float16Type};
use arrow::util::display::{ArrayFormatter, FormatOptions, array_value_to_string};
use minijinja::{ErrorKind as Jinja, Value};

use crate::error::{Error, Result};

/// The one type that stands for all spellings of a type: `Utf8` for every string, `List<Utf8>` for every list of
/// strings. `None` where a column of this type can be neither stored nor used in a template.
pub(super) fn normal_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            DataType::Utf8
        }
        DataType::Dictionary(_, values) => match normal_type(values)? {
            DataType::List(_) => return None,
            scalar => scalar,
        },
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => match normal_type(item.data_type())? {
            DataType::Utf8 => list_of_strings(),
            _ => return None,
        },
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => data_type.clone(),
        _ => return None,
    })
}

/// `List<Utf8>`.
pub(super) fn list_of_strings() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
}

/// Spells values of a normal column as bytes that do not depend on batches, encodings or files.
pub(super) enum ValueBytes {
    Bool(BooleanArray),
    Fixed { bytes: Buffer, width: usize, nulls: Option<NullBuffer> },
    Text(StringArray),
    List(ListArray, StringArray),
}

impl ValueBytes {
    /// Takes a column of a normal type.
    pub(super) fn new(array: &ArrayRef) -> Result<Self> {
        if let Some(width) = array.data_type().primitive_width() {
            let data = array.to_data();
            let bytes = data.buffers()[0].slice(data.offset() * width);
            return Ok(Self::Fixed { bytes, width, nulls: data.nulls().cloned() });
        }
        match array.data_type() {
            DataType::Boolean => Ok(Self::Bool(array.as_boolean().clone())),
            DataType::Utf8 => Ok(Self::Text(array.as_string::<i32>().clone())),
            DataType::List(item) if *item.data_type() == DataType::Utf8 => {
                let list = array.as_list::<i32>();
                Ok(Self::List(list.clone(), list.values().as_string::<i32>().clone()))
            }
            other => Err(Error::internal(format!("column of type {other} has no value bytes"))),
        }
    }

    /// Appends the value of `row`: a null marker, then the value, prefixed with its length where it varies.
    pub(super) fn append(&self, row: usize, out: &mut Vec<u8>) {
        let valid = match self {
            Self::Bool(array) => array.is_valid(row),
            Self::Fixed { nulls, .. } => nulls.as_ref().is_none_or(|n| n.is_valid(row)),
            Self::Text(array) => array.is_valid(row),
            Self::List(array, _) => array.is_valid(row),
        };
        out.push(u8::from(valid));
        if !valid {
            return;
        }
        let text = |value: &str, out: &mut Vec<u8>| {
            out.extend((value.len() as u64).to_le_bytes());
            out.extend(value.as_bytes());
        };
        match self {
            Self::Bool(array) => out.push(u8::from(array.value(row))),
            Self::Fixed { bytes, width, .. } => {
                out.extend(&bytes.as_slice()[row * width..(row + 1) * width]);
            }
            Self::Text(array) => text(array.value(row), out),
            Self::List(array, items) => {
                let (from, to) = (array.value_offsets()[row], array.value_offsets()[row + 1]);
                out.extend(((to - from) as u64).to_le_bytes());
                for item in from as usize..to as usize {
                    out.push(u8::from(items.is_valid(item)));
                    if items.is_valid(item) {
                        text(items.value(item), out);
                    }
                }
            }
        }
    }
}

/// The value of a normal column as a template sees it; a null is `none`, dates print as ISO 8601. `exact` prints short
/// floats by their own digits (0.1, where release 0.1.0 has 0.10000000149011612), and fails the template on a date that
/// has no ISO form, in whose place the release prints an error.
pub(super) fn template_value(array: &ArrayRef, row: usize, exact: bool) -> Value {
    use arrow::datatypes as t;
    if array.is_null(row) {
        return Value::from(());
    }
    match array.data_type() {
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            items.as_string::<i32>().iter().flatten().map(Value::from).collect()
        }
        DataType::Boolean => Value::from(array.as_boolean().value(row)),
        DataType::Int8 => Value::from(array.as_primitive::<t::Int8Type>().value(row)),
        DataType::Int16 => Value::from(array.as_primitive::<t::Int16Type>().value(row)),
        DataType::Int32 => Value::from(array.as_primitive::<t::Int32Type>().value(row)),
        DataType::Int64 => Value::from(array.as_primitive::<t::Int64Type>().value(row)),
        DataType::UInt8 => Value::from(array.as_primitive::<t::UInt8Type>().value(row)),
        DataType::UInt16 => Value::from(array.as_primitive::<t::UInt16Type>().value(row)),
        DataType::UInt32 => Value::from(array.as_primitive::<t::UInt32Type>().value(row)),
        DataType::UInt64 => Value::from(array.as_primitive::<t::UInt64Type>().value(row)),
        DataType::Float16 => {
            short_float(array.as_primitive::<Float16Type>().value(row).to_f32(), exact)
        }
        DataType::Float32 => short_float(array.as_primitive::<t::Float32Type>().value(row), exact),
        DataType::Float64 => Value::from(array.as_primitive::<t::Float64Type>().value(row)),
        _ if exact => {
            let options = FormatOptions::default().with_display_error(false);
            let text = ArrayFormatter::try_new(array, &options)
                .and_then(|texts| texts.value(row).try_to_string());
            text.map_or_else(
                |_| {
                    minijinja::Error::new(Jinja::InvalidOperation, "no date of the calendar").into()
                },
                Value::from,
            )
        }
        _ => array_value_to_string(array, row).map_or_else(|_| Value::from(()), Value::from),
    }
}

/// Templates calculate in 64 bits. The digits that tell a short float from its neighbours name a longer one that prints
/// as they do.
fn short_float(value: f32, exact: bool) -> Value {
    let digits = exact.then(|| value.to_string().parse::<f64>().ok()).flatten();
    Value::from(digits.unwrap_or_else(|| value.into()))
}

/// Whether a type can be `topics`.
pub(super) fn is_topics(found: &DataType) -> bool {
    normal_type(found).is_some_and(|t| t == DataType::Utf8 || t == list_of_strings())
}

/// Whether a type can be `updated_at`.
pub(super) fn is_time(found: &DataType) -> bool {
    normal_type(found).is_some_and(|t| {
        t.is_integer()
            || matches!(
                t,
                DataType::Utf8 | DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)
            )
    })
}

/// A boolean that is neither null nor false.
pub(super) fn is_true(column: &ArrayRef, row: usize) -> bool {
    column.as_boolean_opt().is_some_and(|c| c.is_valid(row) && c.value(row))
}

/// The stored type of a note id: `Int64` or `Utf8`.
pub(super) fn note_id_type(found: &DataType) -> Option<DataType> {
    match found {
        DataType::Dictionary(_, values) => note_id_type(values),
        t if t.is_integer() => Some(DataType::Int64),
        t if normal_type(t) == Some(DataType::Utf8) => Some(DataType::Utf8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListBuilder, StringBuilder};

    fn bytes(array: &ArrayRef, row: usize) -> Vec<u8> {
        let mut out = Vec::new();
        ValueBytes::new(array).unwrap().append(row, &mut out);
        out
    }

    #[test]
    fn bytes_do_not_depend_on_slices() {
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
        let slice = ints.slice(2, 2);
        assert_eq!(bytes(&ints, 2), bytes(&slice, 0));
        assert_eq!(bytes(&ints, 1), [0]);
        let mut builder = ListBuilder::new(StringBuilder::new());
        builder.append_value([Some("a"), None]);
        builder.append_value([Some("b"), Some("c")]);
        let lists: ArrayRef = Arc::new(builder.finish());
        assert_eq!(bytes(&lists, 1), bytes(&lists.slice(1, 1), 0));
        assert_ne!(bytes(&lists, 0), bytes(&lists, 1));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None]));
        assert_ne!(bytes(&texts, 0), bytes(&texts, 1), "an empty string is not null");
    }

    #[test]
    fn every_string_is_one_type() {
        let of = |t: DataType| normal_type(&t);
        assert_eq!(of(DataType::Utf8View), Some(DataType::Utf8));
        let dictionary =
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::LargeUtf8));
        assert_eq!(of(dictionary), Some(DataType::Utf8));
        let list = DataType::LargeList(Arc::new(Field::new("x", DataType::Utf8View, false)));
        assert_eq!(of(list), Some(list_of_strings()));
        assert_eq!(of(DataType::Binary), None);
    }
}
