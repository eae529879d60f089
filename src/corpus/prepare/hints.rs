//! How SQL makes what the contract accepts of a column that has another type.

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, IntervalUnit};

use super::source::literal;
use super::values::{is_time, is_topics, list_of_strings, normal_type, note_id_type};

/// What a column is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `note_id`.
    Id,
    /// `title`, `body`.
    Text,
    /// `topics`.
    Topics,
    /// `updated_at`.
    Time,
    /// `deleted`.
    Flag,
    /// A column of the template, or a stored one.
    Value,
}

impl Wanted {
    pub(super) fn accepts(self, found: &DataType) -> bool {
        match self {
            Self::Id => note_id_type(found).is_some(),
            Self::Text => normal_type(found) == Some(DataType::Utf8),
            Self::Topics => is_topics(found),
            Self::Time => is_time(found),
            Self::Flag => matches!(found, DataType::Boolean | DataType::Null),
            Self::Value => normal_type(found).is_some(),
        }
    }

    /// The accepted types, in words.
    pub(super) fn accepted(self) -> &'static str {
        match self {
            Self::Id => "a string or an integer of at most 64 bits",
            Self::Text => "a string",
            Self::Topics => "a string or a list of strings",
            Self::Time => "a timestamp, a date, an integer or a string",
            Self::Flag => "a boolean",
            Self::Value => "a number, boolean, string, date, time, timestamp or list of strings",
        }
    }
}

/// An expression, and what to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conversion {
    pub(super) sql: String,
    pub(super) remark: String,
}

impl Conversion {
    fn plain(sql: impl Into<String>) -> Option<Self> {
        Some(Self { sql: sql.into(), remark: String::new() })
    }

    fn with(sql: String, remark: impl Into<String>) -> Option<Self> {
        Some(Self { sql, remark: remark.into() })
    }
}

/// What makes of the column `sql`, of type `found`, what is wanted. `None` where no expression does without loss.
pub(super) fn conversion(wanted: Wanted, sql: &str, found: &DataType) -> Option<Conversion> {
    use DataType as T;
    if wanted.accepts(found) {
        return Conversion::plain(sql);
    }
    match found {
        T::Struct(fields) => {
            let names: Vec<_> = fields.iter().map(|field| format!("`{}`", field.name())).collect();
            let mut first = fields.iter().find_map(|field| {
                conversion(wanted, &format!("{sql}[{}]", literal(field.name())), field.data_type())
            })?;
            if names.len() > 1 {
                first.remark =
                    format!("; or another of its fields, {}{}", few(&names), first.remark);
            }
            Some(first)
        }
        T::Map(entries, _) => {
            let T::Struct(fields) = entries.data_type() else { return None };
            let (key, value) = (fields.first()?.data_type(), fields.get(1)?.data_type());
            let text = normal_type(key) == Some(T::Utf8);
            let key = if text { "'KEY'" } else { "KEY" };
            let mut one = conversion(wanted, &format!("{sql}[{key}]"), value)?;
            one.remark = format!(", where KEY is the key that is meant{}", one.remark);
            Some(one)
        }
        // A field of encoded rows comes out encoded; anything else is decoded first.
        T::Dictionary(keys, values) => match values.as_ref() {
            T::Struct(fields) => {
                let encode =
                    |value: &DataType| T::Dictionary(keys.clone(), Box::new(value.clone()));
                fields.iter().find_map(|field| {
                    let path = format!("{sql}[{}]", literal(field.name()));
                    conversion(wanted, &path, &encode(field.data_type()))
                })
            }
            values => decoded(wanted, sql, values),
        },
        T::RunEndEncoded(_, values) => decoded(wanted, sql, values.data_type()),
        T::List(item)
        | T::LargeList(item)
        | T::ListView(item)
        | T::LargeListView(item)
        | T::FixedSizeList(item, _) => list(wanted, sql, found, item.data_type()),
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => {
            bytes(wanted, sql, found)
        }
        // Its branches cannot be told apart in SQL.
        T::Union(..) => None,
        _ => scalar(wanted, sql, found),
    }
}

fn decoded(wanted: Wanted, sql: &str, values: &DataType) -> Option<Conversion> {
    conversion(wanted, &format!("arrow_cast({sql}, '{values}')"), values)
}

fn list(wanted: Wanted, sql: &str, found: &DataType, item: &DataType) -> Option<Conversion> {
    let texts = if normal_type(found) == Some(list_of_strings()) {
        Some(sql.to_owned())
    } else {
        can_cast_types(found, &list_of_strings())
            .then(|| format!("arrow_cast({sql}, 'List(Utf8)')"))
    };
    match wanted {
        Wanted::Id => Conversion::plain(format!("array_to_string({}, '/')", texts?)),
        Wanted::Text => Conversion::plain(format!("array_to_string({}, ' ')", texts?)),
        Wanted::Topics | Wanted::Value => Conversion::plain(texts?),
        Wanted::Time => conversion(wanted, &format!("{sql}[1]"), item),
        Wanted::Flag => present(sql),
    }
}

fn bytes(wanted: Wanted, sql: &str, found: &DataType) -> Option<Conversion> {
    let text = match found {
        DataType::FixedSizeBinary(_) => format!("CAST(arrow_cast({sql}, 'Binary') AS VARCHAR)"),
        _ => format!("CAST({sql} AS VARCHAR)"),
    };
    let hex = format!("encode({sql}, 'hex')");
    match wanted {
        Wanted::Id | Wanted::Value => {
            Conversion::with(hex, format!("; or {text} where the bytes are text"))
        }
        Wanted::Text | Wanted::Topics | Wanted::Time => Conversion::plain(text),
        Wanted::Flag => {
            let width = if let DataType::FixedSizeBinary(width) = found { *width } else { 1 };
            let zero = "00".repeat(usize::try_from(width).unwrap_or(1));
            Conversion::plain(format!("{hex} <> '{zero}'"))
        }
    }
}

/// Numbers, booleans, texts and times.
fn scalar(wanted: Wanted, sql: &str, found: &DataType) -> Option<Conversion> {
    use DataType as T;
    let text = || Conversion::plain(format!("CAST({sql} AS VARCHAR)"));
    let whole = |sql: String| format!("CAST({sql} AS BIGINT)");
    match wanted {
        Wanted::Id if found.is_floating() => Conversion::with(
            format!("CAST({sql} AS VARCHAR)"),
            "; beyond 2^53 such a number stands for several integers, which no conversion brings back: let the source \
             hold larger ids as text",
        ),
        Wanted::Id if found.is_decimal() => Conversion::with(
            format!("CAST({sql} AS VARCHAR)"),
            format!(
                "; or {} where all are whole numbers of at most 18 digits",
                whole(sql.to_owned())
            ),
        ),
        Wanted::Id | Wanted::Text | Wanted::Topics | Wanted::Value => text(),
        Wanted::Flag => match found {
            T::Utf8 | T::LargeUtf8 | T::Utf8View => Conversion::with(
                format!("CAST({sql} AS BOOLEAN)"),
                format!(
                    " where it says true, false, yes, no, 1 or 0; else {sql} = 'WORD' with the word that it uses"
                ),
            ),
            t if t.is_numeric() => Conversion::plain(format!("{sql} <> 0")),
            _ => present(sql),
        },
        Wanted::Time => match found {
            t if t.is_floating() => Conversion::with(
                whole(format!("CAST({sql} AS DOUBLE) * 1000000")),
                ", for seconds since 1970",
            ),
            t if t.is_decimal() => {
                let places = match t {
                    T::Decimal32(_, places)
                    | T::Decimal64(_, places)
                    | T::Decimal128(_, places)
                    | T::Decimal256(_, places) => (*places).clamp(0, 9),
                    _ => 0,
                };
                let factor = 10_i64.pow(u32::from(places.unsigned_abs()));
                Conversion::plain(match factor {
                    1 => whole(sql.to_owned()),
                    _ => whole(format!("{sql} * {factor}")),
                })
            }
            T::Interval(
                IntervalUnit::MonthDayNano | IntervalUnit::DayTime | IntervalUnit::YearMonth,
            ) => Conversion::plain(format!("to_timestamp_micros(0) + {sql}")),
            _ => Conversion::plain(whole(sql.to_owned())),
        },
    }
}

fn present(sql: &str) -> Option<Conversion> {
    Conversion::with(format!("{sql} IS NOT NULL"), " where any value means deleted")
}

/// A list for a message: the first ten.
fn few(names: &[String]) -> String {
    let shown = names.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 10 { format!("{shown} and {} more", names.len() - 10) } else { shown }
}
