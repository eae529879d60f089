//! A condition on stored columns, as SQL: `lang = 'en' AND like_count > 10`.
//!
//! It arrives from outside (a flag, a request), so only operators and functions are admitted that are pure, cheap,
//! and cannot make a value much larger than what they were given.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;

use super::names::quoted;
use super::session::redact;
use crate::error::{Error, Result, ResultExt};

/// Longest condition in bytes.
const MAX_LENGTH: usize = 4096;

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

/// A compiled condition. Share it by reference.
#[derive(Debug)]
pub struct RowFilter {
    condition: Arc<dyn PhysicalExpr>,
    /// The columns that it reads, in the schema's order; it is compiled against just these.
    columns: SchemaRef,
}

impl RowFilter {
    /// Compiles a condition on the columns of `schema`. Unquoted names are lower case, as in SQL.
    ///
    /// # Errors
    /// Input: no SQL, an unknown column (with the nearest name), a type that does not fit, no truth value, or anything
    /// but a pure condition on one row (subqueries, aggregates, `now()`, `random()`).
    pub fn compile(condition: &str, schema: &Schema) -> Result<Self> {
        if condition.len() > MAX_LENGTH {
            return Err(Error::input(format!(
                "the filter has {} bytes; at most {MAX_LENGTH} are read",
                condition.len()
            )));
        }
        let context = SessionContext::new();
        let refused = |cause: DataFusionError| refusal(&cause, schema);
        let all = DFSchema::try_from(schema.clone()).map_err(refused)?;
        let parsed = context.parse_sql_expr(condition, &all).map_err(refused)?;
        let mut names = BTreeSet::new();
        check(&parsed, &mut names)?;
        let indices: Vec<usize> = (0..schema.fields().len())
            .filter(|&at| names.contains(schema.field(at).name()))
            .collect();
        let columns = schema.project(&indices).context(|| "choosing the filter's columns")?;
        let known = DFSchema::try_from(columns.clone()).map_err(refused)?;
        let condition = context.create_physical_expr(parsed.clone(), &known).map_err(refused)?;
        let kind = condition.data_type(&columns).map_err(refused)?;
        if !matches!(kind, DataType::Boolean | DataType::Null) {
            let written = parsed.get_type(&all).unwrap_or(kind);
            return Err(Error::input(format!(
                "the filter is a value of type {written}, not a condition that is true or false"
            )));
        }
        Ok(Self { condition, columns: Arc::new(columns) })
    }

    /// The columns that it reads, in the order that [`RowFilter::evaluate`] wants them.
    pub fn columns(&self) -> &Schema {
        &self.columns
    }

    /// One truth value a row, never null: unknown is false. `batch` holds exactly [`RowFilter::columns`].
    ///
    /// # Errors
    /// Input where a value cannot be computed (a cast of text that is no number).
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let failed = |cause: DataFusionError| {
            Error::input(format!("the filter fails on a note: {}", redact(&plain(&cause))))
        };
        let rows = batch.num_rows();
        let values = self.condition.evaluate(batch).and_then(|value| value.into_array(rows));
        let values = values.map_err(failed)?;
        if values.data_type() == &DataType::Null {
            return Ok(BooleanArray::from(vec![false; rows]));
        }
        let values = values
            .as_boolean_opt()
            .ok_or_else(|| Error::internal("a filter gave no truth value"))?;
        Ok(match values.nulls() {
            None => values.clone(),
            Some(nulls) => BooleanArray::new(values.values() & nulls.inner(), None),
        })
    }
}

/// Admits pure conditions on one row, and collects the columns that they read.
fn check(condition: &Expr, names: &mut BTreeSet<String>) -> Result<()> {
    let mut refused = None;
    let walked = condition.apply(|part| {
        let what = match part {
            Expr::Column(column) => {
                names.insert(column.name.clone());
                None
            }
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
            Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat => Some(
                "a filter cannot join texts with ||; compare the columns one by one".to_owned(),
            ),
            Expr::Unnest(_) => Some("a filter cannot unnest; use array_has".to_owned()),
            // DataFusion names some calls so itself.
            Expr::Alias(_)
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
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::InList(_) => None,
            _ => Some("a filter is a condition on the columns of one note".to_owned()),
        };
        Ok(match what {
            None => TreeNodeRecursion::Continue,
            what => {
                refused = what;
                TreeNodeRecursion::Stop
            }
        })
    });
    walked.map_err(|cause| Error::internal("walking the filter").with_source(cause))?;
    refused.map_or(Ok(()), |what| Err(Error::input(what)))
}

/// Why it cannot be compiled, in terms of what was written.
fn refusal(cause: &DataFusionError, schema: &Schema) -> Error {
    let root = cause.find_root();
    if let DataFusionError::SchemaError(error, _) = root
        && let SchemaError::FieldNotFound { field, .. } = error.as_ref()
    {
        return unknown_column(&field.name, schema);
    }
    let text = plain(root);
    // Without tables every subquery fails at its FROM.
    if text.contains("No table named") || (text.contains("table '") && text.contains("not found")) {
        return Error::input("a filter has no subqueries: it looks at the columns of one note");
    }
    Error::input(format!("the filter cannot be read: {text}"))
}

fn unknown_column(name: &str, schema: &Schema) -> Error {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let nearest = names
        .iter()
        .map(|other| (strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase()), *other))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((_, other)) if other.to_lowercase() == other => format!("; did you mean `{other}`?"),
        Some((_, other)) => format!("; did you mean `\"{other}\"`, in double quotes?"),
        None => String::new(),
    };
    let there = match names.is_empty() {
        true => "the snapshot stores none (corpus.stored_columns)".to_owned(),
        false => {
            let names: Vec<String> = names.into_iter().map(quoted).collect();
            format!("there are {}", names.join(", "))
        }
    };
    Error::input(format!("there is no stored column `{name}`{hint} ({there})"))
}

/// What DataFusion says, in one line, without its advice to file a bug.
fn plain(cause: &DataFusionError) -> String {
    let text = cause.strip_backtrace();
    let text = text.split("\nThis issue was likely").next().unwrap_or(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}
