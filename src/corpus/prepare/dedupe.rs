//! Keeps the newest row of every note, from batches sorted by (shard, note_id).

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use chrono::Utc;

use super::contract::{Contract, NOTE_ID};
use super::values::ValueBytes;
use crate::corpus::outcome::Rejections;
use crate::error::{Error, Result};
use crate::types::NoteId;

/// What a batch came to: rows of distinct notes with valid ids, in order.
#[derive(Debug, Default)]
pub(super) struct Winners {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) rejections: Rejections,
    pub(super) rows_read: u64,
    pub(super) duplicates: u64,
}

/// The ids of a batch.
pub(super) enum Ids {
    Int(Int64Array),
    Text(StringArray),
}

impl Ids {
    pub(super) fn of(batch: &RecordBatch) -> Result<Self> {
        let column = batch.column(NOTE_ID);
        match column.data_type() {
            DataType::Int64 => Ok(Self::Int(column.as_primitive::<Int64Type>().clone())),
            DataType::Utf8 => Ok(Self::Text(column.as_string::<i32>().clone())),
            other => Err(Error::internal(format!("note ids arrived as {other}"))),
        }
    }

    /// `None` for a null.
    pub(super) fn get(&self, row: usize) -> Option<NoteId> {
        match self {
            Self::Int(ids) => ids.is_valid(row).then(|| NoteId::Int(ids.value(row))),
            Self::Text(ids) => ids.is_valid(row).then(|| NoteId::Str(ids.value(row).to_owned())),
        }
    }

    fn same(&self, row: usize, other: &Self, at: usize) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.value(row) == b.value(at),
            (Self::Text(a), Self::Text(b)) => a.value(row) == b.value(at),
            _ => false,
        }
    }

    /// Why the id of `row` cannot name a note.
    fn fault(&self, row: usize) -> Option<&'static str> {
        match self {
            Self::Int(ids) => ids.is_null(row).then_some("null note_id"),
            Self::Text(ids) if ids.is_null(row) => Some("null note_id"),
            Self::Text(ids) => ids.value(row).is_empty().then_some("empty note_id"),
        }
    }
}

/// The state between batches: the best row so far of the last note seen.
pub(super) struct Deduper {
    contract: Arc<Contract>,
    open: Option<RecordBatch>,
}

impl Deduper {
    pub(super) fn new(contract: Arc<Contract>) -> Self {
        Self { contract, open: None }
    }

    /// Takes the next batch. The last note of it is held back, since the next batch may go on with it.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<Winners> {
        let mut winners = Winners { rows_read: batch.num_rows() as u64, ..Winners::default() };
        let ids = Ids::of(&batch)?;
        let mut kept: Vec<u32> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            if let Some(reason) = ids.fault(row) {
                winners.rejections.add(reason, None);
                continue;
            }
            if let Some(&last) = kept.last() {
                let last = last as usize;
                if ids.same(row, &ids, last) {
                    winners.duplicates += 1;
                    if self.order((&batch, row), (&batch, last))? == Ordering::Greater {
                        kept.pop();
                        kept.push(row as u32);
                    }
                    continue;
                }
            } else if let Some(open) = &self.open
                && ids.same(row, &Ids::of(open)?, 0)
            {
                winners.duplicates += 1;
                if self.order((&batch, row), (open, 0))? == Ordering::Greater {
                    self.open = Some(one_row(&batch, row)?);
                }
                continue;
            }
            // The first row of a note that is not the open one.
            if kept.is_empty() {
                winners.batches.extend(self.open.take());
            }
            kept.push(row as u32);
        }
        if let Some(last) = kept.pop() {
            self.open = Some(one_row(&batch, last as usize)?);
        }
        if !kept.is_empty() {
            winners.batches.push(select(&batch, kept)?);
        }
        Ok(winners)
    }

    /// The note held back at the end of the input.
    pub(super) fn finish(&mut self) -> Winners {
        Winners { batches: self.open.take().into_iter().collect(), ..Winners::default() }
    }

    /// Which of two rows of one note wins: newest, then a deletion, then the greater values. A total order over
    /// values, so the winner does not depend on the order of arrival.
    fn order(&self, a: (&RecordBatch, usize), b: (&RecordBatch, usize)) -> Result<Ordering> {
        if let Some(place) = self.contract.updated_at {
            let (x, y) = (updated(a.0.column(place), a.1)?, updated(b.0.column(place), b.1)?);
            if x != y {
                return Ok(x.cmp(&y));
            }
        }
        if let Some(place) = self.contract.deleted {
            let deleted = |(batch, row): (&RecordBatch, usize)| is_true(batch.column(place), row);
            if deleted(a) != deleted(b) {
                return Ok(deleted(a).cmp(&deleted(b)));
            }
        }
        let spell = |(batch, row): (&RecordBatch, usize)| -> Result<Vec<u8>> {
            let mut out = Vec::new();
            let mut columns: Vec<_> = self.contract.columns.iter().collect();
            columns.sort();
            for (_, place) in columns {
                ValueBytes::new(batch.column(*place))?.append(row, &mut out);
            }
            Ok(out)
        };
        Ok(spell(a)?.cmp(&spell(b)?))
    }
}

/// A boolean that is neither null nor false.
pub(super) fn is_true(column: &ArrayRef, row: usize) -> bool {
    column.as_boolean_opt().is_some_and(|c| c.is_valid(row) && c.value(row))
}

/// A point of time in any spelling; the order of the variants is the order between spellings.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Updated {
    Null,
    Text(String),
    Number(i128),
    Time(i64, u32),
}

fn updated(column: &ArrayRef, row: usize) -> Result<Updated> {
    if column.is_null(row) {
        return Ok(Updated::Null);
    }
    match column.data_type() {
        DataType::Utf8 => {
            let text = column.as_string::<i32>().value(row).trim();
            if let Ok(number) = text.parse::<i128>() {
                return Ok(Updated::Number(number));
            }
            Ok(match string_to_datetime(&Utc, text) {
                Ok(time) => Updated::Time(time.timestamp(), time.timestamp_subsec_nanos()),
                Err(_) => Updated::Text(text.to_owned()),
            })
        }
        DataType::UInt64 => {
            Ok(Updated::Number(column.as_primitive::<UInt64Type>().value(row).into()))
        }
        // One column has one unit: its own numbers are in the order of time.
        _ => {
            let one = cast(&column.slice(row, 1), &DataType::Int64)
                .map_err(|e| Error::internal("reading updated_at").with_source(e))?;
            Ok(Updated::Number(one.as_primitive::<Int64Type>().value(0).into()))
        }
    }
}

/// A copy, so that one held row does not keep its batch alive.
fn one_row(batch: &RecordBatch, row: usize) -> Result<RecordBatch> {
    gather(batch, &UInt32Array::from(vec![row as u32]))
}

fn select(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    let (first, count) = (rows[0] as usize, rows.len());
    if rows[count - 1] as usize == first + count - 1 {
        return Ok(batch.slice(first, count));
    }
    gather(batch, &UInt32Array::from(rows))
}

fn gather(batch: &RecordBatch, rows: &UInt32Array) -> Result<RecordBatch> {
    take_record_batch(batch, rows).map_err(|e| Error::internal("selecting rows").with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Fields, Schema};

    fn text_order(a: &str, b: &str) -> Ordering {
        let column = Arc::new(StringArray::from(vec![a, b])) as ArrayRef;
        updated(&column, 0).unwrap().cmp(&updated(&column, 1).unwrap())
    }

    #[test]
    fn strings_compare_as_what_they_mean() {
        assert_eq!(
            text_order("2024-01-01T00:00:00Z", "2024-01-01T01:00:00+02:00"),
            Ordering::Greater
        );
        assert_eq!(text_order("2024-01-02", "2024-01-01T23:59:59.5"), Ordering::Greater);
        assert_eq!(text_order("999", "1000"), Ordering::Less);
        assert_eq!(text_order("v2", "v10"), Ordering::Greater, "text is text");
        assert_eq!(text_order("9999-12-31T23:59:59", "2024-01-01"), Ordering::Greater);
    }

    fn contract() -> Arc<Contract> {
        Arc::new(Contract {
            updated_at: Some(2),
            deleted: None,
            columns: vec![("title".into(), 3)],
            stored: Fields::empty(),
            stored_places: vec![],
            names: Arc::new([]),
            sources: vec![],
            projection: vec![],
        })
    }

    fn batch(rows: &[(Option<&str>, Option<i64>, &str)]) -> RecordBatch {
        let field = |name, t| Field::new(name, t, true);
        let schema = Schema::new(vec![
            field("shard", DataType::UInt32),
            field("note_id", DataType::Utf8),
            field("updated_at", DataType::Int64),
            field("title", DataType::Utf8),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(vec![0; rows.len()])),
            Arc::new(rows.iter().map(|r| r.0).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| Some(r.2)).collect::<StringArray>()),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    #[test]
    fn newest_wins_across_any_batch_borders() {
        let rows = [
            (None, Some(1), "no id"),
            (Some(""), Some(1), "no id"),
            (Some("a"), None, "old"),
            (Some("a"), Some(2), "new"),
            (Some("a"), Some(1), "older"),
            (Some("b"), Some(1), "x"),
            (Some("b"), Some(1), "y"),
            (Some("c"), None, "only"),
        ];
        for size in 1..=rows.len() {
            let mut deduper = Deduper::new(contract());
            let mut all: Vec<Winners> =
                rows.chunks(size).map(|rows| deduper.push(batch(rows)).unwrap()).collect();
            all.push(deduper.finish());
            let titles: Vec<String> = all
                .iter()
                .flat_map(|w| &w.batches)
                .flat_map(|b| b.column(3).as_string::<i32>().iter().flatten().map(str::to_owned))
                .collect();
            assert_eq!(titles, ["new", "y", "only"], "batches of {size}");
            assert_eq!(all.iter().map(|w| w.duplicates).sum::<u64>(), 3);
            assert_eq!(all.iter().map(|w| w.rejections.total()).sum::<u64>(), 2);
            assert_eq!(all.iter().map(|w| w.rows_read).sum::<u64>(), 8);
        }
    }
}
