//! What a condition may consist of: operators and functions that are pure, cheap, and give back no more than they get.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Operator, Volatility};

use super::patterns::Patterns;
use crate::error::{Error, Result};

/// Functions that a condition may call.
const FUNCTIONS: &[&str] = &[
    "abs",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_length",
    "btrim",
    "cardinality",
    "ceil",
    "character_length",
    "coalesce",
    "contains",
    "date_part",
    "date_trunc",
    "ends_with",
    "floor",
    "lower",
    "ltrim",
    "make_array",
    "nullif",
    "octet_length",
    "regexp_like",
    "round",
    "rtrim",
    "starts_with",
    "strpos",
    "substr",
    "to_date",
    "to_timestamp",
    "upper",
];

/// Admits pure conditions on one row, and returns the names of the columns that they read.
pub(super) fn check(condition: &Expr) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut patterns = Patterns::default();
    let mut refused = None;
    let walked = condition.apply(|part| {
        if let Expr::Column(column) = part {
            names.insert(column.name.clone());
        }
        refused = refusal(part).or_else(|| patterns.refusal(part));
        Ok(match refused {
            None => TreeNodeRecursion::Continue,
            Some(_) => TreeNodeRecursion::Stop,
        })
    });
    walked.map_err(|cause| Error::internal("walking the filter").with_source(cause))?;
    refused.map_or(Ok(names), |what| Err(Error::input(what)))
}

/// Why a part, without what is in it, may not be in a condition.
fn refusal(part: &Expr) -> Option<String> {
    match part {
        Expr::ScalarFunction(call) => {
            let name = call.func.name();
            match call.func.signature().volatility {
                _ if FUNCTIONS.contains(&name) => None,
                Volatility::Immutable => Some(format!(
                    "the function `{name}` is not available; there are {}",
                    FUNCTIONS.join(", ")
                )),
                _ => Some(format!(
                    "`{name}()` gives another value each time; write the value itself"
                )),
            }
        }
        Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::ScalarSubquery(_)
        | Expr::SetComparison(_) => Some("a filter has no subqueries".to_owned()),
        Expr::AggregateFunction(_) | Expr::WindowFunction(_) | Expr::GroupingSet(_) => {
            Some("a filter looks at one note: it has no aggregates and no windows".to_owned())
        }
        Expr::ScalarVariable(..) | Expr::Placeholder(_) | Expr::OuterReferenceColumn(..) => {
            Some("a filter has no variables; write the value itself".to_owned())
        }
        Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat => {
            Some("a filter cannot join texts with ||; compare the columns one by one".to_owned())
        }
        Expr::Unnest(_) => Some("a filter cannot unnest; use array_has".to_owned()),
        Expr::Cast(cast) => unfit(cast.field.data_type()),
        Expr::TryCast(cast) => unfit(cast.field.data_type()),
        Expr::Column(_)
        // DataFusion names some calls so itself.
        | Expr::Alias(_)
        | Expr::Literal(..)
        | Expr::BinaryExpr(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::InList(_) => None,
        _ => Some("a filter is a condition on the columns of one note".to_owned()),
    }
}

/// A list of a fixed length is filled up to it, whatever was in it before.
fn unfit(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => unfit(item.data_type()),
        other if !other.is_nested() => None,
        other => {
            Some(format!("a filter converts to plain values and lists of them, not to {other}"))
        }
    }
}
