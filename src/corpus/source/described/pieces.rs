//! Batches of Arrow files in pieces small enough to be written out: a dictionary, a view, or a run may stand for the
//! same text a million times.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    ArrowNativeType, DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType, SchemaRef,
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
    /// The plan itself where its batches hold every value as it is.
    pub(in crate::corpus::source) fn of(
        input: Arc<dyn ExecutionPlan>,
        table: &str,
        room: u64,
    ) -> Arc<dyn ExecutionPlan> {
        match is_short(&input.schema()) {
            true => Arc::new(Self { input, table: table.to_owned(), room }),
            false => input,
        }
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
        let pieces = move |batch: RecordBatch| match cut(&batch, room) {
            Ok(pieces) => Ok(stream::iter(pieces.into_iter().map(Ok))),
            Err(most) => {
                let error = too_large(&format!("a row of table `{table}`"), most);
                Err(DataFusionError::External(Box::new(error)))
            }
        };
        let batches = self.input.execute(partition, context)?;
        let pieces = batches.map(move |batch| batch.and_then(&pieces)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), pieces)))
    }
}

/// Whether values may be held shorter than they are.
fn is_short(schema: &SchemaRef) -> bool {
    fn holds_short(of: &DataType) -> bool {
        use DataType as T;
        match of {
            T::Dictionary(..) | T::RunEndEncoded(..) | T::Utf8View | T::BinaryView => true,
            T::ListView(_) | T::LargeListView(_) => true,
            T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) | T::Map(item, _) => {
                holds_short(item.data_type())
            }
            T::Struct(fields) => fields.iter().any(|field| holds_short(field.data_type())),
            _ => false,
        }
    }
    schema.fields().iter().any(|field| holds_short(field.data_type()))
}

/// The rows of a batch in pieces that take at most a quarter of the room, or have one row; the bytes of one that takes
/// more than the room.
fn cut(batch: &RecordBatch, room: u64) -> std::result::Result<Vec<RecordBatch>, u64> {
    let rows = sums(batch.columns().iter(), batch.num_rows());
    let (mut pieces, mut start, mut sum) = (Vec::new(), 0, 0_u64);
    for (at, bytes) in rows.into_iter().enumerate() {
        if bytes > room {
            return Err(bytes);
        }
        if at > start && sum.saturating_add(bytes) > room / 4 {
            pieces.push(batch.slice(start, at - start));
            (start, sum) = (at, 0);
        }
        sum = sum.saturating_add(bytes);
    }
    pieces.push(batch.slice(start, batch.num_rows() - start));
    Ok(pieces)
}

fn sums<'a>(columns: impl Iterator<Item = &'a ArrayRef>, rows: usize) -> Vec<u64> {
    columns.fold(vec![0_u64; rows], |mut sums, column| {
        sums.iter_mut()
            .zip(lengths(column))
            .for_each(|(sum, bytes)| *sum = sum.saturating_add(bytes));
        sums
    })
}

/// Bytes of each value, written out.
fn lengths(array: &ArrayRef) -> Vec<u64> {
    use DataType as T;
    let rows = array.len();
    match array.data_type() {
        T::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let values = lengths(dictionary.values());
            if values.is_empty() {
                return vec![0; rows];
            }
            dictionary.normalized_keys().iter().map(|key| values[*key]).collect()
        }
        T::RunEndEncoded(ends, _) => match ends.data_type() {
            T::Int16 => runs::<Int16Type>(array),
            T::Int32 => runs::<Int32Type>(array),
            _ => runs::<Int64Type>(array),
        },
        T::Utf8 => between(array.as_string::<i32>().value_offsets(), None),
        T::LargeUtf8 => between(array.as_string::<i64>().value_offsets(), None),
        T::Binary => between(array.as_binary::<i32>().value_offsets(), None),
        T::LargeBinary => between(array.as_binary::<i64>().value_offsets(), None),
        // The length of a view is in its first four bytes.
        T::Utf8View => {
            array.as_string_view().views().iter().map(|view| u64::from(*view as u32)).collect()
        }
        T::BinaryView => {
            array.as_binary_view().views().iter().map(|view| u64::from(*view as u32)).collect()
        }
        T::List(_) => {
            let list = array.as_list::<i32>();
            between(list.value_offsets(), Some(list.values()))
        }
        T::LargeList(_) => {
            let list = array.as_list::<i64>();
            between(list.value_offsets(), Some(list.values()))
        }
        T::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            between(map.value_offsets(), Some(&entries))
        }
        T::ListView(_) => {
            let list = array.as_list_view::<i32>();
            viewed(list.offsets(), list.sizes(), list.values())
        }
        T::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            viewed(list.offsets(), list.sizes(), list.values())
        }
        T::FixedSizeList(_, size) => {
            let values = lengths(array.as_fixed_size_list().values());
            let size = (*size).as_usize().max(1);
            (0..rows).map(|row| values.iter().skip(row * size).take(size).sum()).collect()
        }
        T::Struct(_) => sums(array.as_struct().columns().iter(), rows),
        T::FixedSizeBinary(size) => vec![(*size).as_usize() as u64; rows],
        other => vec![other.primitive_width().unwrap_or(1) as u64; rows],
    }
}

fn runs<R: RunEndIndexType>(array: &ArrayRef) -> Vec<u64> {
    let Some(runs) = array.as_run_opt::<R>() else { return vec![0; array.len()] };
    let values = lengths(runs.values());
    (0..array.len()).map(|row| values[runs.get_physical_index(row)]).collect()
}

/// Bytes between offsets: of texts, or of the members of lists.
fn between<O: ArrowNativeType>(offsets: &[O], members: Option<&ArrayRef>) -> Vec<u64> {
    let ends = members.map(ends);
    let end = |at: &O| match &ends {
        Some(ends) => ends[at.as_usize()],
        None => at.as_usize() as u64,
    };
    offsets.windows(2).map(|pair| end(&pair[1]).saturating_sub(end(&pair[0]))).collect()
}

fn viewed<O: ArrowNativeType>(offsets: &[O], sizes: &[O], members: &ArrayRef) -> Vec<u64> {
    let ends = ends(members);
    let pairs = offsets.iter().zip(sizes).map(|(at, size)| (at.as_usize(), size.as_usize()));
    pairs.map(|(at, size)| ends[at + size].saturating_sub(ends[at])).collect()
}

/// Bytes of the members up to each, and of all of them.
fn ends(members: &ArrayRef) -> Vec<u64> {
    let mut ends = vec![0_u64];
    for bytes in lengths(members) {
        ends.push(ends[ends.len() - 1].saturating_add(bytes));
    }
    ends
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        DictionaryArray, Int64Array, ListArray, RunArray, StringArray, StringViewArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn what_stands_for_more_than_it_holds_is_measured() {
        let text = "x".repeat(1_000);
        let texts = StringArray::from(vec!["short", &text]);
        let plain: ArrayRef = Arc::new(texts.clone());
        let dictionary: DictionaryArray<Int32Type> = vec!["short", &text].into_iter().collect();
        let dictionary: ArrayRef = Arc::new(dictionary);
        let view: ArrayRef = Arc::new(StringViewArray::from(vec!["short", &text]));
        let runs = RunArray::<Int32Type>::try_new(&vec![1, 3].into(), &texts).unwrap();
        let lists = |values: &ArrayRef| -> ArrayRef {
            let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths([2, 0]);
            Arc::new(ListArray::new(field, offsets, Arc::clone(values), None))
        };
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        for (array, bytes) in [
            (plain.clone(), vec![5, 1_000]),
            (numbers, vec![8, 8]),
            (dictionary.clone(), vec![5, 1_000]),
            (view.clone(), vec![5, 1_000]),
            (Arc::new(runs) as ArrayRef, vec![5, 1_000, 1_000]),
            (lists(&dictionary), vec![1_005, 0]),
            (lists(&view), vec![1_005, 0]),
        ] {
            assert_eq!(lengths(&array), bytes, "{:?}", array.data_type());
        }
        let batch = RecordBatch::try_from_iter([("a", dictionary)]).unwrap();
        let rows = |room| cut(&batch, room).map(|pieces| pieces.len());
        assert_eq!([4_020, 4_019, 1_000, 999].map(rows), [Ok(1), Ok(2), Ok(2), Err(1_000)]);
    }
}
