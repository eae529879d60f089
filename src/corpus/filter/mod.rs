//! A condition on stored columns, as SQL: `lang = 'en' AND like_count > 10`.
//!
//! It arrives from outside (a flag, a request) and must not be able to stop or starve the process. Its shape is bounded
//! before it is parsed; only operators and functions are admitted that are pure, cheap, and cannot make a value much larger
//! than what they were given; and it is evaluated on slices of rows that are small in what they may grow to.

mod admit;
mod coalesce;
mod cost;
mod kinds;
mod patterns;
mod refusal;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::ExprSchemable;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;

use self::cost::Cost;
use self::kinds::Kind;
use self::refusal::{plain, refusal};
use super::session::redact;
use super::sql::{self, Limits, Refused};
use crate::error::{Error, Result, ResultExt, deep};
use crate::types::Cancel;

/// A slice that takes longer is followed by a smaller one: between two of them it is seen that nobody waits any more.
const SLICE_TIME: Duration = Duration::from_millis(20);
/// Rows of the first slice.
const FIRST_ROWS: usize = 16;

/// A compiled condition. Share it by reference.
#[derive(Debug)]
pub struct RowFilter {
    condition: Arc<dyn PhysicalExpr>,
    /// The columns that it reads, in the schema's order; it is compiled against just these.
    columns: SchemaRef,
    cost: Cost,
    /// What to say where a note's text is not a number that it is compared with.
    mixed: Option<String>,
}

impl RowFilter {
    /// Compiles a condition on the columns of `schema`. Unquoted names are lower case, as in SQL.
    ///
    /// # Errors
    /// Input: no SQL, too much of it, an unknown column (with the nearest name), a type that does not fit, no truth value,
    /// or anything but a pure condition on one row (subqueries, aggregates, `now()`, `random()`).
    pub fn compile(condition: &str, schema: &Schema) -> Result<Self> {
        let parsed =
            sql::expression(condition, &Limits::CONDITION).map_err(|refused| match refused {
                Refused::Shape(what) => Error::input(format!("the filter {what}")),
                Refused::Parser(cause) => refusal(&cause, schema),
                Refused::Thread(error) => error,
            })?;
        deep(|| {
            let state = SessionContext::new().state();
            let refused = |cause: DataFusionError| refusal(&cause, schema);
            let all = DFSchema::try_from(schema.clone()).map_err(refused)?;
            let parsed = state.create_logical_expr_from_sql_expr(parsed, &all).map_err(refused)?;
            let names = admit::check(&parsed)?;
            cost::check_parts(&parsed)?;
            let parsed = coalesce::written_out(parsed)?;
            let indices: Vec<usize> = (0..schema.fields().len())
                .filter(|&at| names.contains(schema.field(at).name()))
                .collect();
            let columns = schema.project(&indices).context(|| "choosing the filter's columns")?;
            let known = DFSchema::try_from(columns.clone()).map_err(refused)?;
            let mixed = kinds::mixed(&parsed, &all);
            let condition = state.create_physical_expr(parsed.clone(), &known);
            let condition = condition.map_err(|cause| match &mixed {
                Some(mixed) => Error::input(mixed.clone()),
                None => refused(cause),
            })?;
            let cost = Cost::of(&condition, &columns)?;
            let kind = condition.data_type(&columns).map_err(refused)?;
            if !matches!(kind, DataType::Boolean | DataType::Null) {
                let written = parsed.get_type(&all).unwrap_or(kind);
                let written = Kind::of(&written).map_or_else(
                    || format!("a value of type {written}"),
                    |of| of.word().to_owned(),
                );
                return Err(Error::input(format!(
                    "the filter is {written}, not a condition that is true or false{}",
                    kinds::example(schema)
                )));
            }
            Ok(Self { condition, columns: Arc::new(columns), cost, mixed })
        })
    }

    /// The columns that it reads, in the order that [`RowFilter::evaluate`] wants them.
    pub fn columns(&self) -> &Schema {
        &self.columns
    }

    /// One truth value a row, never null: unknown is false. `batch` holds exactly [`RowFilter::columns`].
    ///
    /// # Errors
    /// Input where a value cannot be computed (such as a cast of text that is not a number), or would take too much memory for one
    /// note; those of `cancel`, which is asked many times a second.
    pub fn evaluate(&self, batch: &RecordBatch, cancel: &Cancel) -> Result<BooleanArray> {
        let rows = batch.num_rows();
        let mut passing = BooleanBufferBuilder::new(rows);
        let mut step = FIRST_ROWS;
        while passing.len() < rows {
            cancel.check()?;
            let rest = batch.slice(passing.len(), rows - passing.len());
            let slice = rest.slice(0, self.cost.affordable(&rest, step)?);
            let began = Instant::now();
            passing.append_buffer(self.slice(&slice)?.values());
            step = match began.elapsed() {
                took if took > SLICE_TIME => (step / 2).max(1),
                took if took < SLICE_TIME / 4 => step.saturating_mul(2),
                _ => step,
            };
        }
        Ok(BooleanArray::new(passing.finish(), None))
    }

    fn slice(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let failed = |cause: DataFusionError| {
            Error::input(self.mixed.clone().unwrap_or_else(|| {
                format!("the filter fails on a note: {}", redact(&plain(&cause)))
            }))
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
