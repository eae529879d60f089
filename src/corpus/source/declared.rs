//! Values of declared types, and texts as values of any type.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Date32Type, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use crate::corpus::options::ColumnType;

impl ColumnType {
    /// The arrow type of the column.
    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp | Self::Time(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Strings => DataType::new_list(DataType::Utf8, true),
        }
    }

    /// Its name in the configuration.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp | Self::Time(_) => "timestamp",
            Self::Strings => "strings",
        }
    }

    /// What a value of the type is called.
    pub(super) fn value(&self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::Integer => "a whole number of 64 bits",
            Self::Float => "a number",
            Self::Boolean => "true or false",
            Self::Date => "a day such as 2024-10-01",
            Self::Timestamp => "a point in time such as 2024-10-01T12:00:00Z",
            Self::Strings => "a list of strings",
            Self::Time(_) => "a point in time of the declared format",
        }
    }

    /// Whether a text is a value of the type, and so is read by [`convert`].
    pub(super) fn holds(&self, text: &str) -> bool {
        match self {
            Self::String => true,
            Self::Integer => text.parse::<i64>().is_ok(),
            // Digits that make an infinite number are too many.
            Self::Float => text.parse::<f64>().is_ok_and(|number| {
                number.is_finite() || !text.bytes().any(|byte| byte.is_ascii_digit())
            }),
            Self::Boolean => boolean(text).is_some(),
            Self::Date => date(text).is_some(),
            Self::Timestamp | Self::Time(_) => self.micros(text).is_some(),
            Self::Strings => false,
        }
    }

    fn micros(&self, text: &str) -> Option<i64> {
        match self {
            Self::Time(format) => {
                let format = format.timestamp.as_str();
                let zoned = DateTime::parse_from_str(text, format).map(|time| time.to_utc());
                let time = zoned
                    .or_else(|_| NaiveDateTime::parse_from_str(text, format).map(|t| t.and_utc()));
                let time = time.or_else(|_| {
                    NaiveDate::parse_from_str(text, format)
                        .map(|day| day.and_time(chrono::NaiveTime::MIN).and_utc())
                });
                time.ok().map(|time| time.timestamp_micros())
            }
            _ => string_to_datetime(&Utc, text).ok().map(|time| time.timestamp_micros()),
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn date(text: &str) -> Option<i32> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(Date32Type::from_naive_date)
}

/// Texts as values of a declared type (`declared`), or of the type that their column was found to have.
///
/// # Errors
/// The first row whose text is no such value.
pub(super) fn convert(
    texts: StringArray,
    declared: Option<&ColumnType>,
    data_type: &DataType,
) -> Result<ArrayRef, usize> {
    if *data_type == DataType::Utf8 {
        return Ok(Arc::new(texts));
    }
    if *data_type == DataType::Null {
        return Ok(new_null_array(data_type, texts.len()));
    }
    let values = texts.iter().map(|text| text.filter(|text| !text.is_empty()));
    let converted: ArrayRef = match declared {
        None => {
            let options = CastOptions { safe: true, ..CastOptions::default() };
            cast_with_options(&texts, data_type, &options).map_err(|_| 0_usize)?
        }
        Some(ColumnType::Integer) => {
            Arc::new(values.clone().map(|v| v?.parse().ok()).collect::<Int64Array>())
        }
        Some(ColumnType::Float) => {
            Arc::new(values.clone().map(|v| v?.parse().ok()).collect::<Float64Array>())
        }
        Some(ColumnType::Boolean) => {
            Arc::new(values.clone().map(|v| boolean(v?)).collect::<BooleanArray>())
        }
        Some(ColumnType::Date) => {
            Arc::new(values.clone().map(|v| date(v?)).collect::<Date32Array>())
        }
        Some(time @ (ColumnType::Timestamp | ColumnType::Time(_))) => {
            let micros = values.clone().map(|v| time.micros(v?));
            Arc::new(micros.collect::<TimestampMicrosecondArray>())
        }
        Some(ColumnType::String | ColumnType::Strings) => return Err(0),
    };
    let lost = values.enumerate().find(|(row, text)| text.is_some() && converted.is_null(*row));
    lost.map_or(Ok(converted), |(row, _)| Err(row))
}
