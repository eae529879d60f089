//! What an output column of the user's SQL is made of.

use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::corpus::names::{quoted, toml_key};

/// Where the values of an output column come from, for messages that say how to convert them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The column as the query may name it.
    pub(super) sql: String,
    /// The name in its table, where it is a column of a table and nothing else.
    name: Option<String>,
}

impl Source {
    /// Of a column whose making is not known: a query around this one can name it.
    pub(super) fn unknown(output: &str) -> Self {
        Self { sql: quoted(output), name: None }
    }

    /// Finds the source of a plan's output column.
    pub(super) fn of(plan: &LogicalPlan, output: &str) -> Self {
        column(plan, output).unwrap_or_else(|| Self::unknown(output))
    }

    /// Whether the query itself can name the column, or only one around it.
    pub(super) fn is_known(&self) -> bool {
        self.name.is_some()
    }

    /// The column as a key of TOML.
    pub(super) fn key(&self) -> String {
        toml_key(self.name.as_ref().unwrap_or(&self.sql))
    }
}

fn column(plan: &LogicalPlan, output: &str) -> Option<Source> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let at = projection.schema.fields().iter().position(|field| field.name() == output)?;
            // What has no table in front of it is the name of an expression further down.
            let Expr::Column(Column { relation: Some(table), name, .. }) =
                projection.expr.get(at)?.clone().unalias_nested().data
            else {
                return None;
            };
            let namesakes = projection.input.schema().fields().iter();
            let sql = match namesakes.filter(|field| *field.name() == name).count() {
                1 => quoted(&name),
                _ => format!("{}.{}", quoted(table.table()), quoted(&name)),
            };
            Some(Source { sql, name: Some(name) })
        }
        LogicalPlan::Sort(sort) => column(&sort.input, output),
        LogicalPlan::Limit(limit) => column(&limit.input, output),
        _ => None,
    }
}

/// A text as SQL has to spell it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_sql_needs_it() {
        for (name, spelled) in [
            ("note_id", "note_id"),
            ("Likes", "\"Likes\""),
            ("cwe-id", "\"cwe-id\""),
            ("2nd", "\"2nd\""),
            ("a\"b", "\"a\"\"b\""),
            ("order", "\"order\""),
            ("größe", "\"größe\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(name), spelled);
        }
        assert_eq!(literal("it's"), "'it''s'");
        let source = |name: &str| Source { sql: String::new(), name: Some(name.to_owned()) };
        assert_eq!(source("at-2").key(), "at-2");
        assert_eq!(source("last edit").key(), "\"last edit\"");
    }
}
