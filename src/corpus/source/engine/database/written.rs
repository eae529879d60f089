//! Which rows of a table were written since an earlier run, by a column that says when.
//!
//! The highest value of the column is the mark that a run leaves. The next one reads the rows from there on. A transaction may be
//! committed long after it wrote the time into its rows, so a time is taken back by an hour: rows that are read again are compared
//! with what is stored like all others. A mark in the future would hide what is written until then, so none is.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use chrono::{TimeDelta, Utc};
use datafusion::common::{Column as Named, ScalarValue};
use datafusion::logical_expr::lit;
use datafusion::prelude::Expr;

use super::driver::{Column, Compares, Driver, column_name};
use super::spool::Spool;
use super::statement::condition;
use crate::error::{Error, Result};

/// How long a transaction may take from the time in its rows to its end.
const LATE: TimeDelta = TimeDelta::hours(1);

/// The column that says when a row was written.
pub(super) struct Written<'a> {
    column: &'a Column,
    columns: &'a [Column],
}

impl<'a> Written<'a> {
    /// # Errors
    /// Config for a column that is not there, or whose values have no order.
    pub(super) fn by(name: &str, columns: &'a [Column], table: &str) -> Result<Self> {
        let column = columns.iter().find(|column| column.name == name);
        let ordered = |column: &&Column| {
            let moment = matches!(column.data_type, DataType::Timestamp(..) | DataType::Date32);
            column.compares == Compares::Ordered && (moment || column.data_type.is_integer())
        };
        match column {
            None => Err(Error::config(format!(
                "{table} has no column `{name}`, which changed_at names"
            ))
            .of_key("changed_at")),
            Some(column) if ordered(&column) => Ok(Self { column, columns }),
            Some(column) => Err(Error::config(format!(
                "changed_at names column `{name}` of {table}, which is {}: a time, a date or a whole number is needed",
                column.data_type
            ))
            .of_key("changed_at")),
        }
    }

    /// The highest value there is; `None` in a table without any.
    pub(super) async fn mark(
        &self,
        driver: &mut dyn Driver,
        from: &str,
        table: &str,
    ) -> Result<Option<ScalarValue>> {
        let Column { name, data_type, .. } = self.column;
        let schema = Arc::new(Schema::new(vec![Field::new(name, data_type.clone(), true)]));
        let sql = format!("SELECT max({}) FROM {from}", column_name(name));
        let spool = driver.read(&sql, Spool::new(table.to_owned(), &schema)?).await?;
        let mut found = None;
        spool.read(&mut |batch| {
            found = ScalarValue::try_from_array(batch.column(0), 0).ok();
            Ok(false)
        })?;
        Ok(found.filter(|value| !value.is_null()).map(not_in_future))
    }

    /// A mark as the manifest keeps it.
    pub(super) fn text(mark: &ScalarValue) -> Option<String> {
        match mark.cast_to(&DataType::Utf8).ok()? {
            ScalarValue::Utf8(text) => text,
            _ => None,
        }
    }

    /// The condition of the rows that were written since an earlier mark, and how the report calls them.
    ///
    /// # Errors
    /// Why that is in doubt, for people.
    pub(super) fn since(
        &self,
        before: &str,
        now: &ScalarValue,
    ) -> std::result::Result<(String, String), String> {
        let Column { name, data_type, .. } = self.column;
        let unread =
            || format!("the highest `{name}` was {before:?}, which does not fit {data_type}");
        let before =
            ScalarValue::try_from_string(before.to_owned(), data_type).map_err(|_| unread())?;
        let shown = |value: &ScalarValue| Self::text(value).unwrap_or_default();
        if before.partial_cmp(now).is_none_or(Ordering::is_gt) {
            let (before, now) = (shown(&before), shown(now));
            return Err(format!("the highest `{name}` was {before}, and is {now} now"));
        }
        let from = back(before);
        let column = Expr::Column(Named::from_name(name));
        // Nobody knows when a row without a value was written.
        let rows = column.clone().gt_eq(lit(from.clone())).or(column.is_null());
        let sql = condition(&rows, self.columns).ok_or_else(unread)?;
        Ok((sql, format!("the rows whose `{name}` is {} or later", shown(&from))))
    }
}

/// A mark of now where it would be later.
fn not_in_future(mark: ScalarValue) -> ScalarValue {
    let now = Utc::now();
    match mark {
        ScalarValue::TimestampMicrosecond(Some(at), zone) => {
            ScalarValue::TimestampMicrosecond(Some(at.min(now.timestamp_micros())), zone)
        }
        ScalarValue::Date32(Some(day)) => {
            let today = now.timestamp().div_euclid(86_400);
            ScalarValue::Date32(Some(day.min(i32::try_from(today).unwrap_or(i32::MAX))))
        }
        mark => mark,
    }
}

/// From where to read on.
fn back(mark: ScalarValue) -> ScalarValue {
    match mark {
        ScalarValue::TimestampMicrosecond(Some(at), zone) => {
            let late = LATE.num_microseconds().unwrap_or_default();
            ScalarValue::TimestampMicrosecond(Some(at.saturating_sub(late)), zone)
        }
        ScalarValue::Date32(Some(day)) => ScalarValue::Date32(Some(day.saturating_sub(1))),
        mark => mark,
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::time;
    use super::*;

    fn column(data_type: DataType) -> Column {
        let (name, compares) = ("at".to_owned(), Compares::Ordered);
        Column { select: column_name(&name), name, data_type, compares }
    }

    #[test]
    fn a_mark_leads_to_the_rows_from_there_on() {
        for (data_type, before, now, rows) in [
            (DataType::Int64, "7", "7", Some("(\"at\" >= 7 OR \"at\" IS NULL)")),
            (DataType::Int64, "7", "6", None),
            (
                time(true),
                "2024-10-01T12:00:00.250Z",
                "2024-10-02T00:00:00Z",
                Some("(\"at\" >= '2024-10-01T11:00:00.250' OR \"at\" IS NULL)"),
            ),
            (time(true), "2024-10-02T00:00:00Z", "2024-10-01T12:00:00Z", None),
            (
                time(false),
                "2024-10-01T12:00:00",
                "2024-10-01T12:00:00",
                Some("(\"at\" >= '2024-10-01T11:00:00' OR \"at\" IS NULL)"),
            ),
            (
                DataType::Date32,
                "2024-10-01",
                "2024-10-01",
                Some("(\"at\" >= '2024-09-30' OR \"at\" IS NULL)"),
            ),
            (DataType::Int64, "yesterday", "7", None),
        ] {
            let columns = [column(data_type.clone())];
            let written = Written::by("at", &columns, "notes").unwrap();
            let now = ScalarValue::try_from_string(now.to_owned(), &data_type).unwrap();
            let found = written.since(before, &now);
            assert_eq!(found.as_ref().ok().map(|(sql, _)| sql.as_str()), rows, "{found:?}");
            // What a manifest keeps is read back as it was.
            let kept = Written::text(&now).unwrap();
            assert_eq!(ScalarValue::try_from_string(kept, &data_type).unwrap(), now);
        }
    }

    #[test]
    fn a_mark_is_never_in_the_future() {
        let late = ScalarValue::TimestampMicrosecond(Some(i64::MAX), None);
        let ScalarValue::TimestampMicrosecond(Some(at), None) = not_in_future(late) else {
            panic!("a time stays one")
        };
        assert!((Utc::now().timestamp_micros() - at).abs() < 60_000_000);
        let day = ScalarValue::Date32(Some(i32::MAX));
        assert!(not_in_future(day) < ScalarValue::Date32(Some(40_000)));
    }

    #[test]
    fn values_without_an_order_mark_nothing() {
        let text = Column { data_type: DataType::Utf8, ..column(DataType::Int64) };
        for (columns, says) in
            [(vec![text], "a time, a date or a whole number"), (vec![], "no column `at`")]
        {
            let error = Written::by("at", &columns, "notes").err().unwrap();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
