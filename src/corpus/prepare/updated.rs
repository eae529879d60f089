//! The order of two `updated_at` values of one note: by what they mean, and as release 0.1.0 had it.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use chrono::Utc;

use super::times::{Moment, moment};
use crate::error::{Error, Result};

/// A value of `updated_at` as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp<'a> {
    Null,
    Number(i128),
    Text(&'a str),
}

impl<'a> Stamp<'a> {
    pub(super) fn of(column: &'a ArrayRef, row: usize) -> Result<Self> {
        if column.is_null(row) {
            return Ok(Self::Null);
        }
        Ok(match column.data_type() {
            DataType::Utf8 => Self::Text(column.as_string::<i32>().value(row).trim()),
            DataType::UInt64 => Self::Number(column.as_primitive::<UInt64Type>().value(row).into()),
            // One column has one unit: its own numbers are in the order of time.
            _ => {
                let one = cast(&column.slice(row, 1), &DataType::Int64)
                    .map_err(|e| Error::internal("reading updated_at").with_source(e))?;
                Self::Number(one.as_primitive::<Int64Type>().value(0).into())
            }
        })
    }

    /// The order of time. Null is older than anything, and an empty text than anything but null.
    pub(super) fn by_meaning(self, other: Self) -> std::result::Result<Ordering, Unordered> {
        use Meaning::{Number, Time, Words};
        let (a, b) = (Meaning::of(self), Meaning::of(other));
        match (a, b) {
            (Time(a), Time(b)) => Ok(a.cmp(&b)),
            (Number(a), Number(b)) => Ok(a.cmp(&b)),
            (Words(a), Words(b)) if a == b => Ok(Ordering::Equal),
            _ if a.rank() != b.rank() || a.rank() < 2 => Ok(a.rank().cmp(&b.rank())),
            (Number(_), Time(_)) | (Time(_), Number(_)) => Err(Unordered::Mixed),
            _ => Err(Unordered::of(&[a, b])),
        }
    }

    /// What release 0.1.0 took for the order of time: times where both read as RFC 3339, numbers where both are
    /// integers, else text.
    pub(super) fn as_released(self, other: Self) -> Ordering {
        let read = |stamp| match stamp {
            Self::Null => Released::Null,
            Self::Number(number) => Released::Number(number),
            Self::Text(text) => match (text.parse(), string_to_datetime(&Utc, text)) {
                (Ok(number), _) => Released::Number(number),
                (_, Ok(time)) => Released::Time(time.timestamp(), time.timestamp_subsec_nanos()),
                _ => Released::Text(text),
            },
        };
        read(self).cmp(&read(other))
    }
}

/// The order of the variants is the order between spellings.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Released<'a> {
    Null,
    Text(&'a str),
    Number(i128),
    Time(i64, u32),
}

/// What a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning<'a> {
    Null,
    Empty,
    Number(i128),
    Time(Moment),
    /// No rule orders these.
    Words(&'a str),
}

impl<'a> Meaning<'a> {
    fn of(stamp: Stamp<'a>) -> Self {
        match stamp {
            Stamp::Null => Self::Null,
            Stamp::Number(number) => Self::Number(number),
            Stamp::Text("") => Self::Empty,
            Stamp::Text(text) => match text.parse() {
                Ok(number) => Self::Number(number),
                Err(_) => moment(text).map_or(Self::Words(text), Self::Time),
            },
        }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Empty => 1,
            _ => 2,
        }
    }
}

/// Why two values have no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unordered {
    /// A number and a time.
    Mixed,
    /// Dates that may be read in two ways: formats of both readings, and whether the other value is a plain time.
    Dates { likely: String, other: String, beside_times: bool },
    /// Each has one number in it: `v1`, `v10`.
    Numbered,
    /// `1.5`, `1.10`: decimal numbers, or versions.
    Decimals,
    /// Anything else.
    Words,
}

impl Unordered {
    fn of(values: &[Meaning<'_>; 2]) -> Self {
        let words: Vec<&str> = values
            .iter()
            .filter_map(|value| if let Meaning::Words(text) = value { Some(*text) } else { None })
            .collect();
        let beside_times = values.iter().any(|value| matches!(value, Meaning::Time(_)));
        let dates: Option<Vec<Slashed>> = words.iter().map(|text| Slashed::of(text)).collect();
        if (words.len() == 2 || beside_times)
            && let Some(dates) = dates
            && dates.iter().all(|date| date.shape() == dates[0].shape())
        {
            let certain = dates.iter().find_map(Slashed::day_first);
            let day_first = certain.unwrap_or(dates[0].separator == '.');
            let (likely, other) = (dates[0].format(day_first), dates[0].format(!day_first));
            return Self::Dates { likely, other, beside_times };
        }
        if words.len() == 2 && words.iter().all(|text| is_decimal(text)) {
            return Self::Decimals;
        }
        if words.len() == 2 && words.iter().all(|text| has_one_number(text)) {
            return Self::Numbered;
        }
        Self::Words
    }

    /// What is wrong with the two.
    pub(super) fn why(&self) -> &'static str {
        match self {
            Self::Mixed => "one is a number, the other a time",
            Self::Dates { .. } => "day and month of such a date may be either way round",
            Self::Decimals => "such a number may be a fraction or a version",
            Self::Numbered | Self::Words => "no rule orders such texts",
        }
    }

    /// What to write instead, where `sql` is the column in SQL and `key` its name in a table's schema.
    pub(super) fn way_out(&self, sql: &str, key: &str) -> String {
        let convert = |expression: String| format!("in corpus.sql: {expression} AS updated_at");
        match self {
            Self::Mixed => {
                let numbers = convert(format!(
                    "CASE WHEN {sql} ~ '^-?[0-9]+$' THEN to_timestamp(CAST({sql} AS BIGINT)) ELSE to_timestamp({sql}) END"
                ));
                format!("where the numbers are seconds since 1970, convert them {numbers}")
            }
            Self::Dates { likely, other, beside_times: true } => {
                let all = convert(format!(
                    "to_timestamp({sql}, '{likely}', '%+', '%Y-%m-%dT%H:%M:%S%.f', '%Y-%m-%d %H:%M:%S%.f', '%Y-%m-%d')"
                ));
                format!("say which it is {all}, or '{other}' for '{likely}'")
            }
            Self::Dates { likely, other, beside_times: false } => format!(
                "say which it is {}, or for CSV and JSON lines in the table's entry in corpus.tables: \
                 schema = {{ {key} = {{ timestamp = \"{likely}\" }} }}; or {other} for {likely}",
                convert(format!("to_timestamp({sql}, '{likely}')"))
            ),
            Self::Decimals => format!(
                "where they are fractions, convert them {}",
                convert(format!("CAST(CAST({sql} AS DOUBLE) * 1000000 AS BIGINT)"))
            ),
            Self::Numbered => format!(
                "where the number in them counts, convert them {}",
                convert(format!("CAST(regexp_replace({sql}, '[^0-9]', '', 'g') AS BIGINT)"))
            ),
            Self::Words => format!(
                "return a number or a time {}, where FORMAT is that of your dates, such as %d %b %Y %H:%M:%S",
                convert(format!("to_timestamp({sql}, 'FORMAT')"))
            ),
        }
    }
}

/// A date with the year at its end.
struct Slashed {
    separator: char,
    first: u32,
    second: u32,
    /// Formats of the year and of what comes after it.
    year: &'static str,
    time: &'static str,
}

impl Slashed {
    fn of(text: &str) -> Option<Self> {
        let separator = text.chars().find(|c| !c.is_ascii_digit())?;
        if !['/', '.', '-'].contains(&separator) {
            return None;
        }
        let mut parts = text.splitn(3, separator);
        let number = |part: Option<&str>| {
            let part = part.filter(|part| (1..=2).contains(&part.len()))?;
            part.parse::<u32>().ok().filter(|number| (1..=31).contains(number))
        };
        let (first, second) = (number(parts.next())?, number(parts.next())?);
        let rest = parts.next()?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let year = match digits {
            4 => "%Y",
            2 => "%y",
            _ => return None,
        };
        let time = &rest[digits..];
        let colons = time.matches(':').count();
        let after_noon = time.ends_with(['M', 'm']);
        let time = match (time.is_empty(), time.starts_with(' '), colons, after_noon) {
            (true, ..) => "",
            (_, true, 1, false) => " %H:%M",
            (_, true, 2, false) => " %H:%M:%S%.f",
            (_, true, 1, true) => " %I:%M %p",
            (_, true, 2, true) => " %I:%M:%S %p",
            _ => return None,
        };
        Some(Self { separator, first, second, year, time })
    }

    /// Whether the day comes first, where the numbers tell.
    fn day_first(&self) -> Option<bool> {
        match (self.first > 12, self.second > 12) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        }
    }

    fn shape(&self) -> (char, &str, &str) {
        (self.separator, self.year, self.time)
    }

    fn format(&self, day_first: bool) -> String {
        let Self { separator, year, time, .. } = self;
        let (first, second) = if day_first { ("%d", "%m") } else { ("%m", "%d") };
        format!("{first}{separator}{second}{separator}{year}{time}")
    }
}

fn is_decimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && text.parse::<f64>().is_ok()
}

/// Whether a text has one run of digits that fits an integer.
fn has_one_number(text: &str) -> bool {
    let mut runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    runs.next().is_some_and(|run| run.len() <= 18) && runs.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::{Equal, Greater, Less};

    fn text(a: &'static str, b: &'static str) -> std::result::Result<Ordering, Unordered> {
        let (a, b) = (Stamp::Text(a), Stamp::Text(b));
        let order = a.by_meaning(b);
        assert_eq!(b.by_meaning(a).ok(), order.clone().ok().map(Ordering::reverse));
        order
    }

    #[test]
    fn texts_compare_as_what_they_mean() {
        assert_eq!(text("2024-01-01T00:00:00Z", "2024-01-01T01:00:00+02:00"), Ok(Greater));
        assert_eq!(text("2024-01-02", "2024-01-01T23:59:59.5"), Ok(Greater));
        assert_eq!(text("2024-9-1", "2024-10-1"), Ok(Less));
        assert_eq!(text("2024/09/01", "2024-9-1"), Ok(Equal));
        assert_eq!(text("999", "1000"), Ok(Less));
        assert_eq!(text("18446744073709551616", "18446744073709551615"), Ok(Greater));
        assert_eq!(text("9999-12-31T23:59:59", "2024-01-01"), Ok(Greater));
        assert_eq!(text("10000-01-01", "9999-12-31"), Ok(Greater));
        assert_eq!(text("v1", "v1"), Ok(Equal));
        assert_eq!(text("", "v1"), Ok(Less));
        assert_eq!(Stamp::Null.by_meaning(Stamp::Text("")), Ok(Less));
        assert_eq!(Stamp::Null.by_meaning(Stamp::Text("v1")), Ok(Less));
        assert_eq!(Stamp::Null.by_meaning(Stamp::Null), Ok(Equal));
    }

    #[test]
    fn what_has_no_order_is_told_apart() {
        assert_eq!(text("2024-09-01", "1725148800"), Err(Unordered::Mixed));
        assert_eq!(text("v1", "v10"), Err(Unordered::Numbered));
        assert_eq!(text("v1", "7"), Err(Unordered::Words));
        assert_eq!(text("1.9", "1.10"), Err(Unordered::Decimals));
        assert_eq!(text("1.9.0", "1.10.0"), Err(Unordered::Words));
        assert_eq!(text("draft", "final"), Err(Unordered::Words));
        assert_eq!(text("draft", "2024-09-01"), Err(Unordered::Words));
        let huge = "99999999999999999999999999999999999999999";
        assert_eq!(text(huge, "1"), Err(Unordered::Words));
    }

    #[test]
    fn the_format_of_a_date_is_as_sure_as_can_be() {
        let formats = |a, b| match text(a, b) {
            Err(Unordered::Dates { likely, other, beside_times }) => (likely, other, beside_times),
            other => panic!("{a} and {b} are {other:?}"),
        };
        let of = |a: &str, b: &str, c| (a.to_owned(), b.to_owned(), c);
        assert_eq!(formats("09/01/2024", "9/2/2024"), of("%m/%d/%Y", "%d/%m/%Y", false));
        assert_eq!(formats("09/01/2024", "13/01/2024"), of("%d/%m/%Y", "%m/%d/%Y", false));
        assert_eq!(formats("01.09.24", "02.09.24"), of("%d.%m.%y", "%m.%d.%y", false));
        assert_eq!(formats("01.13.2024", "02.09.2024"), of("%m.%d.%Y", "%d.%m.%Y", false));
        assert_eq!(
            formats("1-9-2024 10:00", "2-9-2024 11:00"),
            of("%m-%d-%Y %H:%M", "%d-%m-%Y %H:%M", false)
        );
        assert_eq!(
            formats("9/1/2024 1:00:00 PM", "9/2/2024 2:00:00 AM"),
            of("%m/%d/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M:%S %p", false)
        );
        assert_eq!(formats("09/01/2024", "2024-09-02"), of("%m/%d/%Y", "%d/%m/%Y", true));
        assert_eq!(text("09/01/2024", "01.09.2024"), Err(Unordered::Words));
        assert_eq!(text("09/01/2024", "1725148800"), Err(Unordered::Words));
    }

    #[test]
    fn the_released_order_stays() {
        let released = |a, b| Stamp::Text(a).as_released(Stamp::Text(b));
        assert_eq!(released("v2", "v10"), Greater, "text is text");
        assert_eq!(released("2024-9-1", "2024-10-1"), Greater);
        assert_eq!(released("9999-12-31", "10000-01-01"), Greater);
        assert_eq!(released("2024-01-01", "1725148800"), Greater);
        assert_eq!(released("999", "1000"), Less);
        assert_eq!(Stamp::Null.as_released(Stamp::Text("")), Less);
    }
}
