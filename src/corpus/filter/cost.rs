//! What evaluating a condition may take, and how many rows may be evaluated at once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};

use crate::corpus::sql;
use crate::error::{Error, Result};

/// How often parts of a condition may be evaluated for a row: more than its text has parts, where some are written out twice.
const EVALUATIONS: u64 = 10_000;
/// Bytes that the values of a slice may take, read as often as the condition reads them. All that is computed at once takes a
/// small multiple: nothing that a condition may call gives back much more than it gets.
const SLICE: u64 = 4 << 20;
/// As [`SLICE`], of a note that is evaluated alone.
const NOTE: u64 = 64 << 20;
/// What a value takes at least: it may become a decimal or a short text.
const VALUE: u64 = 32;

/// Refuses a condition that cannot even be compiled for its many parts.
///
/// # Errors
/// Input, with the way out.
pub(super) fn check_parts(condition: &Expr) -> Result<()> {
    let failed = |cause| Error::internal("walking the filter").with_source(cause);
    within(sql::parts(condition).map_err(failed)?)
}

fn within(evaluations: u64) -> Result<()> {
    match evaluations > EVALUATIONS {
        false => Ok(()),
        true => Err(Error::input(format!(
            "the filter would evaluate more than {EVALUATIONS} parts for each note, since some values are evaluated twice: do not \
             nest BETWEEN, IN, and coalesce in each other so often"
        ))),
    }
}

/// What a condition reads and computes for a row.
#[derive(Debug, Clone, Default)]
pub(super) struct Cost {
    /// Evaluations of parts.
    evaluations: u64,
    /// Evaluations of each column, in order.
    reads: Vec<u64>,
    /// Bytes of constants, which become a value of every row.
    constants: u64,
}

impl Cost {
    /// The cost of a compiled condition on these columns.
    ///
    /// # Errors
    /// Input where it is too great.
    pub(super) fn of(condition: &Arc<dyn PhysicalExpr>, columns: &Schema) -> Result<Self> {
        let cost = Self::part(condition, columns.fields().len(), &mut HashMap::new());
        within(cost.evaluations).map(|()| cost)
    }

    /// Parts may be shared, and then stand for a tree that is exponentially larger: each is looked at once.
    fn part(
        part: &Arc<dyn PhysicalExpr>,
        columns: usize,
        known: &mut HashMap<*const (), Self>,
    ) -> Self {
        let place = Arc::as_ptr(part).cast::<()>();
        if let Some(cost) = known.get(&place) {
            return cost.clone();
        }
        let mut cost = Self { evaluations: 1, reads: vec![0; columns], constants: 0 };
        if let Some(column) = part.downcast_ref::<Column>()
            && let Some(reads) = cost.reads.get_mut(column.index())
        {
            *reads = 1;
        }
        if let Some(constant) = part.downcast_ref::<Literal>() {
            cost.constants = (constant.value().size() as u64).max(VALUE);
        }
        for child in part.children() {
            let child = Self::part(child, columns, known);
            cost.evaluations = cost.evaluations.saturating_add(child.evaluations);
            cost.constants = cost.constants.saturating_add(child.constants);
            for (all, reads) in cost.reads.iter_mut().zip(child.reads) {
                *all = all.saturating_add(reads);
            }
        }
        known.insert(place, cost.clone());
        cost
    }

    /// How many of the first rows of a batch, at most `most` and at least one, may be evaluated at once.
    ///
    /// # Errors
    /// Input where a single note takes too much.
    pub(super) fn affordable(&self, batch: &RecordBatch, most: usize) -> Result<usize> {
        let mut rows = most.clamp(1, batch.num_rows().max(1));
        while rows > 1 && self.bytes(batch, rows) > SLICE {
            rows /= 2;
        }
        let bytes = self.bytes(batch, rows);
        match bytes > NOTE {
            false => Ok(rows),
            true => Err(Error::input(format!(
                "the filter would hold {} MiB for one note; at most {} are allowed: read its long columns fewer times",
                bytes >> 20,
                NOTE >> 20
            ))),
        }
    }

    fn bytes(&self, batch: &RecordBatch, rows: usize) -> u64 {
        let count = rows.min(batch.num_rows()) as u64;
        let fixed = self.evaluations.saturating_mul(VALUE).saturating_add(self.constants);
        let columns = batch.columns().iter().zip(&self.reads);
        let values = columns.map(|(column, reads)| reads.saturating_mul(bytes(column, 0..rows)));
        values.fold(count.saturating_mul(fixed), u64::saturating_add)
    }
}

/// Bytes of the values of some rows, each with what it takes at least.
fn bytes(values: &ArrayRef, rows: Range<usize>) -> u64 {
    let rows = rows.start.min(values.len())..rows.end.min(values.len());
    let count = rows.len() as u64;
    let inner = match values.data_type() {
        DataType::Utf8 => length(values.as_string::<i32>().value_offsets(), &rows),
        DataType::LargeUtf8 => length(values.as_string::<i64>().value_offsets(), &rows),
        DataType::Binary => length(values.as_binary::<i32>().value_offsets(), &rows),
        DataType::LargeBinary => length(values.as_binary::<i64>().value_offsets(), &rows),
        DataType::List(_) => {
            let lists = values.as_list::<i32>();
            bytes(lists.values(), places(lists.value_offsets(), &rows))
        }
        DataType::LargeList(_) => {
            let lists = values.as_list::<i64>();
            bytes(lists.values(), places(lists.value_offsets(), &rows))
        }
        DataType::Struct(_) => {
            values.as_struct().columns().iter().map(|part| bytes(part, rows.clone())).sum()
        }
        other => match other.primitive_width() {
            Some(width) => count * width as u64,
            None if *other == DataType::Boolean => count,
            // Views and dictionaries: any row may be the longest value.
            None => count.saturating_mul(values.get_array_memory_size() as u64),
        },
    };
    inner + count * VALUE
}

fn length<O: OffsetSizeTrait>(offsets: &[O], rows: &Range<usize>) -> u64 {
    places(offsets, rows).len() as u64
}

fn places<O: OffsetSizeTrait>(offsets: &[O], rows: &Range<usize>) -> Range<usize> {
    let at = |row: usize| offsets.get(row).map_or(0, |offset| offset.as_usize());
    at(rows.start)..at(rows.end)
}
