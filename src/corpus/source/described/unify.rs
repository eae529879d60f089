//! One schema over all files of a table that describe themselves: Parquet, Arrow, Avro.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};

use crate::corpus::options::TypeRule;
use crate::corpus::source::brought::is_text;
use crate::corpus::source::file::SourceFile;
use crate::error::{Error, Result};

/// The columns of both; a column that one of them lacks is null there.
///
/// # Errors
/// Input where a column has types with no common one.
pub(super) fn merge(
    merged: Option<Schema>,
    next: Schema,
    file: &SourceFile,
    rule: TypeRule,
) -> Result<Schema> {
    let Some(merged) = merged else { return Ok(next) };
    let mut fields: Vec<FieldRef> = merged.fields().iter().cloned().collect();
    for field in next.fields() {
        let Some(known) = fields.iter_mut().find(|known| known.name() == field.name()) else {
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            continue;
        };
        let common = common_type(known.data_type(), field.data_type(), rule).ok_or_else(|| {
            Error::input(format!(
                "column `{}` is {} in {} but {} in earlier files of table `{}`; make them two tables and CAST in corpus.sql",
                field.name(),
                field.data_type(),
                file.url,
                known.data_type(),
                file.table,
            ))
        })?;
        *known = Arc::new(Field::new(known.name(), common, true));
    }
    Ok(Schema::new(fields))
}

/// A type that holds the values of both, so that each is printed as before.
fn common_type(a: &DataType, b: &DataType, rule: TypeRule) -> Option<DataType> {
    use DataType as T;
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (T::Null, other) | (other, T::Null) => Some(other.clone()),
        (T::Dictionary(_, values), other) | (other, T::Dictionary(_, values)) => {
            common_type(values, plain(other), rule)
        }
        _ if is_text(a) && is_text(b) => Some(T::Utf8),
        _ if is_binary(a) && is_binary(b) => Some(T::LargeBinary),
        _ if a.is_integer() && b.is_integer() => integer(a, b),
        // 0.1.0 read them so; whole numbers then print as `2.0`.
        (T::Int64, T::Float64) | (T::Float64, T::Int64) if rule == TypeRule::Guessed => {
            Some(T::Float64)
        }
        (T::Timestamp(x, zone), T::Timestamp(y, other)) if zone == other => {
            // A time that the finer unit has no room for is an error when it is read.
            Some(T::Timestamp((*x).max(*y), zone.clone()))
        }
        (T::Decimal128(x, scale), T::Decimal128(y, other)) if scale == other => {
            Some(T::Decimal128(*x.max(y), *scale))
        }
        _ => match (items(a), items(b)) {
            (Some(x), Some(y)) => {
                let item = common_type(x.data_type(), y.data_type(), rule)?;
                Some(T::List(Arc::new(Field::new_list_field(item, true))))
            }
            _ => structs(a, b, rule),
        },
    }
}

fn structs(a: &DataType, b: &DataType, rule: TypeRule) -> Option<DataType> {
    let (DataType::Struct(a), DataType::Struct(b)) = (a, b) else { return None };
    let mut fields: Vec<FieldRef> = a.iter().cloned().collect();
    for field in b {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            None => fields.push(Arc::new(field.as_ref().clone().with_nullable(true))),
            Some(known) => {
                let common = common_type(known.data_type(), field.data_type(), rule)?;
                *known = Arc::new(Field::new(known.name(), common, true));
            }
        }
    }
    Some(DataType::Struct(Fields::from(fields)))
}

fn plain(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn items(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => Some(item),
        _ => None,
    }
}

/// The smallest integer type with room for both.
fn integer(a: &DataType, b: &DataType) -> Option<DataType> {
    let bits = |of: &DataType| of.primitive_width().map_or(0, |bytes| bytes * 8);
    let wide = match (a.is_signed_integer(), b.is_signed_integer()) {
        (true, true) => bits(a).max(bits(b)),
        (false, false) => return Some(if bits(a) >= bits(b) { a } else { b }.clone()),
        (true, false) => bits(a).max(2 * bits(b)),
        (false, true) => bits(b).max(2 * bits(a)),
    };
    match wide {
        8 => Some(DataType::Int8),
        16 => Some(DataType::Int16),
        32 => Some(DataType::Int32),
        64 => Some(DataType::Int64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn types_that_print_alike_are_one() {
        use DataType as T;
        let dictionary = |values| T::Dictionary(Box::new(T::Int32), Box::new(values));
        let time = |unit| T::Timestamp(unit, None);
        let list = |item| T::new_list(item, true);
        let cases = [
            (T::Utf8, T::LargeUtf8, Some(T::Utf8)),
            (dictionary(T::Utf8), T::Utf8View, Some(T::Utf8)),
            (dictionary(T::Utf8), dictionary(T::LargeUtf8), Some(T::Utf8)),
            (T::Int32, T::Int64, Some(T::Int64)),
            (T::UInt32, T::Int8, Some(T::Int64)),
            (T::UInt8, T::UInt64, Some(T::UInt64)),
            (T::UInt64, T::Int64, None),
            (T::Float32, T::Float64, None),
            (T::Int64, T::Utf8, None),
            (T::Null, T::Int64, Some(T::Int64)),
            (
                time(TimeUnit::Microsecond),
                time(TimeUnit::Nanosecond),
                Some(time(TimeUnit::Nanosecond)),
            ),
            (time(TimeUnit::Second), T::Timestamp(TimeUnit::Second, Some("UTC".into())), None),
            (list(T::Null), list(T::Utf8), Some(list(T::Utf8))),
            (T::Decimal128(10, 2), T::Decimal128(38, 2), Some(T::Decimal128(38, 2))),
            (T::Decimal128(10, 2), T::Decimal128(10, 3), None),
        ];
        for (a, b, common) in cases {
            for (a, b) in [(&a, &b), (&b, &a)] {
                assert_eq!(common_type(a, b, TypeRule::Exact), common, "{a} and {b}");
            }
        }
        let mixed = |rule| common_type(&T::Int64, &T::Float64, rule);
        assert_eq!(mixed(TypeRule::Guessed), Some(T::Float64), "as 0.1.0 had it");
        assert_eq!(mixed(TypeRule::Exact), None, "2 would print as 2.0");
    }
}
