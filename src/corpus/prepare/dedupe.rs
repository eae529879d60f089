//! Keeps the newest row of every note, from batches sorted by (shard, note_id).

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Int64Type};

use super::contract::NOTE_ID;
use super::newest::{Doubts, Judge};
use crate::corpus::outcome::Rejections;
use crate::error::{Error, Result};
use crate::types::NoteId;

/// The result of a batch: rows of distinct notes with valid ids, in order.
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
            Self::Int(ids) => ids.is_null(row).then_some(NULL_ID),
            Self::Text(ids) => fault(ids.is_valid(row).then(|| ids.value(row))),
        }
    }
}

pub(super) const NULL_ID: &str = "null note_id";
pub(super) const EMPTY_ID: &str = "empty note_id";

/// Why a text cannot be an id.
pub(super) fn fault(id: Option<&str>) -> Option<&'static str> {
    match id {
        None => Some(NULL_ID),
        Some(id) => id.is_empty().then_some(EMPTY_ID),
    }
}

/// The state between batches: the best row so far of the last note seen.
pub(super) struct Deduper {
    judge: Judge,
    open: Option<RecordBatch>,
}

impl Deduper {
    pub(super) fn new(judge: Judge) -> Self {
        Self { judge, open: None }
    }

    /// Takes the next batch. The last note of it is held back, since the next batch may continue it.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<Winners> {
        let mut winners = Winners { rows_read: batch.num_rows() as u64, ..Winners::default() };
        let ids = Ids::of(&batch)?;
        let mut kept: Vec<u32> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let note = || ids.get(row).map_or_else(String::new, |id| id.to_string());
            if let Some(reason) = ids.fault(row) {
                winners.rejections.add(reason, None);
                continue;
            }
            if let Some(&last) = kept.last() {
                let last = last as usize;
                if ids.same(row, &ids, last) {
                    winners.duplicates += 1;
                    if self.judge.order(&note, (&batch, row), (&batch, last))? == Ordering::Greater
                    {
                        kept.pop();
                        kept.push(row as u32);
                    }
                    continue;
                }
            } else if let Some(open) = &self.open
                && ids.same(row, &Ids::of(open)?, 0)
            {
                winners.duplicates += 1;
                if self.judge.order(&note, (&batch, row), (open, 0))? == Ordering::Greater {
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

    /// The notes whose newest row was guessed.
    pub(super) fn doubts(&self) -> Doubts {
        self.judge.doubts().clone()
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
    use std::sync::Arc;

    use super::*;
    use crate::corpus::prepare::contract::Contract;
    use crate::corpus::prepare::source::Source;
    use arrow::array::ArrayRef;
    use arrow::datatypes::{Field, Fields, Schema};

    fn contract() -> Arc<Contract> {
        Arc::new(Contract {
            updated_at: Some(2),
            updated_source: Source::unknown("updated_at"),
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
            let mut deduper = Deduper::new(Judge::new(contract(), true));
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
