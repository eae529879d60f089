//! Batches of Arrow files in pieces small enough to be written out: a dictionary, a view, or a run may stand for the same text
//! a million times.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    ArrowNativeType, DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType,
};
use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use super::refusal::too_large;
use crate::corpus::session::BATCH_ROWS;

/// The rows of a plan, fewer at once.
#[derive(Debug)]
pub(in crate::corpus::source) struct Pieces {
    input: Arc<dyn ExecutionPlan>,
    /// Named where a row is too large.
    table: String,
    /// Bytes that a piece may take.
    room: u64,
}

impl Pieces {
    pub(in crate::corpus::source) fn of(
        input: Arc<dyn ExecutionPlan>,
        table: &str,
        room: u64,
    ) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input, table: table.to_owned(), room })
    }
}

impl DisplayAs for Pieces {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pieces: bytes={}", self.room)
    }
}

impl ExecutionPlan for Pieces {
    fn name(&self) -> &'static str {
        "Pieces"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) => Ok(Self::of(input, &self.table, self.room)),
            None => Ok(self),
        }
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        input: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let unknown = || Arc::new(Statistics::new_unknown(&self.schema()));
        Ok(input.first().map_or_else(unknown, Arc::clone))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let (table, room) = (self.table.clone(), self.room);
        let pieces = move |batch: RecordBatch| {
            let most = batch.columns().iter().map(written_out).fold(0, u64::saturating_add);
            if most > room {
                let error = too_large(&format!("a row of table `{table}`"), most);
                return Err(DataFusionError::External(Box::new(error)));
            }
            let rows = room / 4 / most.max(1);
            let rows = usize::try_from(rows).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS);
            let starts = (0..batch.num_rows()).step_by(rows);
            let piece = move |at| Ok(batch.slice(at, rows.min(batch.num_rows() - at)));
            Ok(stream::iter(starts.map(piece)))
        };
        let batches = self.input.execute(partition, context)?;
        let pieces = batches.map(move |batch| batch.and_then(&pieces)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), pieces)))
    }
}

/// Bytes of the longest value that the array holds shorter than it is; 0 where it holds all of them as they are.
fn written_out(array: &ArrayRef) -> u64 {
    match array.data_type() {
        DataType::Dictionary(..) => longest(array.as_any_dictionary().values()),
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run_values::<Int16Type>(array),
            DataType::Int32 => run_values::<Int32Type>(array),
            _ => run_values::<Int64Type>(array),
        },
        DataType::Utf8View | DataType::BinaryView => longest(array),
        DataType::ListView(_) | DataType::LargeListView(_) => longest(array),
        DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) => {
            let (members, values) = members(array);
            members.saturating_mul(written_out(&values))
        }
        DataType::FixedSizeList(_, size) => {
            native(*size).saturating_mul(written_out(array.as_fixed_size_list().values()))
        }
        DataType::Struct(_) => sum(array.as_struct().columns(), written_out),
        _ => 0,
    }
}

/// Bytes of the longest value.
fn longest(array: &ArrayRef) -> u64 {
    match array.data_type() {
        DataType::Utf8 => longest_of(array.as_string::<i32>().offsets()),
        DataType::LargeUtf8 => longest_of(array.as_string::<i64>().offsets()),
        DataType::Binary => longest_of(array.as_binary::<i32>().offsets()),
        DataType::LargeBinary => longest_of(array.as_binary::<i64>().offsets()),
        DataType::Utf8View => longest_view(array.as_string_view().views()),
        DataType::BinaryView => longest_view(array.as_binary_view().views()),
        DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) => {
            let (members, values) = members(array);
            members.saturating_mul(longest(&values))
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            let members = list.sizes().iter().copied().max().map_or(0, native);
            members.saturating_mul(longest(list.values()))
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            let members = list.sizes().iter().copied().max().map_or(0, native);
            members.saturating_mul(longest(list.values()))
        }
        DataType::FixedSizeList(_, size) => {
            native(*size).saturating_mul(longest(array.as_fixed_size_list().values()))
        }
        DataType::FixedSizeBinary(size) => native(*size),
        DataType::Struct(_) => sum(array.as_struct().columns(), longest),
        other => other.primitive_width().map_or_else(|| written_out(array), |width| width as u64),
    }
}

fn sum(columns: &[ArrayRef], bytes: impl Fn(&ArrayRef) -> u64) -> u64 {
    columns.iter().map(bytes).fold(0, u64::saturating_add)
}

fn run_values<R: RunEndIndexType>(array: &ArrayRef) -> u64 {
    array.as_run_opt::<R>().map_or(0, |runs| longest(runs.values()))
}

/// Members of the longest list, and all members.
fn members(array: &ArrayRef) -> (u64, ArrayRef) {
    match array.data_type() {
        DataType::Map(..) => {
            let map = array.as_map();
            (longest_of(map.offsets()), Arc::new(map.entries().clone()))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (longest_of(list.offsets()), Arc::clone(list.values()))
        }
        _ => {
            let list = array.as_list::<i32>();
            (longest_of(list.offsets()), Arc::clone(list.values()))
        }
    }
}

fn longest_of<O: ArrowNativeType>(offsets: &OffsetBuffer<O>) -> u64 {
    let lengths = offsets.windows(2).map(|pair| pair[1].as_usize() - pair[0].as_usize());
    lengths.max().unwrap_or(0) as u64
}

/// The length of a view stands in its first four bytes.
fn longest_view(views: &[u128]) -> u64 {
    views.iter().map(|view| *view as u32).max().map_or(0, u64::from)
}

fn native(number: impl ArrowNativeType) -> u64 {
    number.as_usize() as u64
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        DictionaryArray, Int64Array, ListArray, RunArray, StringArray, StringViewArray,
    };

    use super::*;

    #[test]
    fn what_stands_for_more_than_it_holds_is_measured() {
        let text = "x".repeat(1_000);
        let texts = StringArray::from(vec!["short", &text]);
        let plain: ArrayRef = Arc::new(texts.clone());
        let dictionary: DictionaryArray<Int32Type> = vec!["short", &text].into_iter().collect();
        let dictionary: ArrayRef = Arc::new(dictionary);
        let view: ArrayRef = Arc::new(StringViewArray::from(vec!["short", &text]));
        let runs = RunArray::<Int32Type>::try_new(&vec![5, 9].into(), &texts).unwrap();
        let lists = |values: &ArrayRef| -> ArrayRef {
            let field =
                Arc::new(arrow::datatypes::Field::new_list_field(values.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths([2, 0]);
            Arc::new(ListArray::new(field, offsets, Arc::clone(values), None))
        };
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        for (array, bytes) in [
            (plain.clone(), 0),
            (numbers, 0),
            (lists(&plain), 0),
            (dictionary.clone(), 1_000),
            (view.clone(), 1_000),
            (Arc::new(runs) as ArrayRef, 1_000),
            (lists(&dictionary), 2_000),
            (lists(&view), 2_000),
        ] {
            assert_eq!(written_out(&array), bytes, "{:?}", array.data_type());
        }
    }
}
