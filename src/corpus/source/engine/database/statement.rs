//! The statement that a scan becomes: the columns that are asked for, and of the filters those that a database answers no
//! more narrowly than this program does. Whatever comes back is filtered once more.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::driver::{Column, Compares, column_name, time};

/// `SELECT … FROM … WHERE … LIMIT …`; a count of rows where no column is asked for.
pub(super) fn select(
    columns: &[Column],
    places: &[usize],
    from: &str,
    (only, filters): (Option<&str>, &[Expr]),
    limit: Option<usize>,
) -> String {
    let wanted: Vec<&str> = places.iter().map(|at| columns[*at].select.as_str()).collect();
    let conditions = filters.iter().filter_map(|filter| condition(filter, columns));
    let conditions: Vec<String> = only.map(str::to_owned).into_iter().chain(conditions).collect();
    let wanted = if wanted.is_empty() { "count(*)".to_owned() } else { wanted.join(", ") };
    let mut sql = format!("SELECT {wanted} FROM {from}");
    if !conditions.is_empty() {
        sql += &format!(" WHERE {}", conditions.join(" AND "));
    }
    if let (Some(limit), [], false) = (limit, filters, places.is_empty()) {
        sql += &format!(" LIMIT {limit}");
    }
    sql
}

/// A filter as a database understands it: it keeps every row that the filter keeps, and maybe others.
pub(super) fn condition(filter: &Expr, columns: &[Column]) -> Option<String> {
    let named = |expr: &Expr| match expr {
        Expr::Column(column) => columns.iter().find(|known| known.name == column.name),
        _ => None,
    };
    let present = |expr: &Expr| {
        let column = named(expr).filter(|column| column.compares != Compares::Nothing)?;
        Some(column_name(&column.name))
    };
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            match (condition(left, columns), condition(right, columns)) {
                (Some(left), Some(right)) => Some(format!("({left} AND {right})")),
                // One of them keeps more than both.
                (one, other) => one.or(other),
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (left, right) = (condition(left, columns)?, condition(right, columns)?);
            Some(format!("({left} OR {right})"))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, op, value) = match (left.as_ref(), right.as_ref()) {
                (column, Expr::Literal(value, _)) => (named(column)?, *op, value),
                (Expr::Literal(value, _), column) => (named(column)?, op.swap()?, value),
                _ => return None,
            };
            let fits = match op {
                Operator::Eq => column.compares != Compares::Nothing,
                Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                    column.compares == Compares::Ordered
                }
                _ => false,
            };
            let value = literal(value).filter(|_| fits)?;
            Some(format!("{} {op} {value}", column_name(&column.name)))
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            let column = present(expr)?;
            let value = |expr: &Expr| match expr {
                Expr::Literal(value, _) => literal(value),
                _ => None,
            };
            let values: Vec<String> = list.iter().map(value).collect::<Option<_>>()?;
            (!values.is_empty()).then(|| format!("{column} IN ({})", values.join(", ")))
        }
        Expr::IsNull(expr) => Some(format!("{} IS NULL", present(expr)?)),
        Expr::IsNotNull(expr) => Some(format!("{} IS NOT NULL", present(expr)?)),
        _ => None,
    }
}

/// A value as every database reads it: quotes are doubled, and a backslash is one.
fn literal(value: &ScalarValue) -> Option<String> {
    let quoted =
        |text: &str| (!text.contains('\0')).then(|| format!("'{}'", text.replace('\'', "''")));
    if value.is_null() {
        return None;
    }
    match value {
        ScalarValue::Int64(Some(number)) => Some(number.to_string()),
        ScalarValue::UInt64(Some(number)) => Some(number.to_string()),
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => quoted(text),
        ScalarValue::Date32(_) | ScalarValue::TimestampMicrosecond(..) => {
            // Sessions are in UTC.
            let plain = match value {
                ScalarValue::Date32(_) => value.clone(),
                _ => value.cast_to(&time(false)).ok()?,
            };
            match plain.cast_to(&DataType::Utf8).ok()? {
                ScalarValue::Utf8(Some(text)) => quoted(&text),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    fn columns() -> Vec<Column> {
        let column = |name: &str, data_type, compares| Column {
            name: name.to_owned(),
            data_type,
            select: column_name(name),
            compares,
        };
        vec![
            column("id", DataType::Int64, Compares::Ordered),
            column("lang", DataType::Utf8, Compares::Equal),
            column("at", time(true), Compares::Ordered),
            column("deleted", DataType::Boolean, Compares::Nothing),
        ]
    }

    #[test]
    fn a_condition_keeps_at_least_the_rows_that_the_filter_keeps() {
        let at = ScalarValue::TimestampMicrosecond(Some(1_727_784_000_250_000), Some("UTC".into()));
        for (filter, sql) in [
            (col("id").gt(lit(7_i64)), Some("\"id\" > 7")),
            (lit(7_i64).gt(col("id")), Some("\"id\" < 7")),
            (col("lang").eq(lit("it's \\")), Some("\"lang\" = 'it''s \\'")),
            // Another order of texts, and equality that is broader, would lose rows.
            (col("lang").gt(lit("a")), None),
            (col("lang").not_eq(lit("a")), None),
            (col("lang").in_list(vec![lit("a"), lit("b")], true), None),
            (col("lang").in_list(vec![lit("a"), lit("b")], false), Some("\"lang\" IN ('a', 'b')")),
            (col("at").gt_eq(lit(at)), Some("\"at\" >= '2024-10-01T12:00:00.250'")),
            (col("id").is_null(), Some("\"id\" IS NULL")),
            (col("deleted").is_null(), None),
            (col("id").eq(lit(1_i64)).and(col("lang").gt(lit("a"))), Some("\"id\" = 1")),
            (col("id").eq(lit(1_i64)).or(col("lang").gt(lit("a"))), None),
            (
                col("id").eq(lit(1_i64)).or(col("lang").eq(lit("a"))),
                Some("(\"id\" = 1 OR \"lang\" = 'a')"),
            ),
            (col("id").eq(lit(ScalarValue::Int64(None))), None),
        ] {
            assert_eq!(condition(&filter, &columns()).as_deref(), sql, "{filter}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_selected() {
        let columns = columns();
        let filters = [col("id").gt(lit(7_i64)), col("lang").gt(lit("a"))];
        let sql = |places: &[usize], filters: &[Expr], limit| {
            select(&columns, places, "\"notes\"", (None, filters), limit)
        };
        assert_eq!(sql(&[0], &filters, None), "SELECT \"id\" FROM \"notes\" WHERE \"id\" > 7");
        assert_eq!(sql(&[], &[], None), "SELECT count(*) FROM \"notes\"");
        // A filter that is applied later would take rows from those that a limit left.
        assert_eq!(sql(&[1, 0], &filters[1..], Some(3)), "SELECT \"lang\", \"id\" FROM \"notes\"");
        assert_eq!(sql(&[1], &[], Some(3)), "SELECT \"lang\" FROM \"notes\" LIMIT 3");
        let changed = select(&columns, &[0], "notes", (Some("\"at\" >= 7"), &filters), None);
        assert_eq!(changed, "SELECT \"id\" FROM notes WHERE \"at\" >= 7 AND \"id\" > 7");
    }
}
