//! Which of two rows of one note is the newest, and what to say where nothing tells.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::contract::Contract;
use super::updated::{Stamp, Unordered};
use super::values::{ValueBytes, is_true};
use crate::error::{Error, Result};
use crate::observe::format::counted;

/// A row of a batch.
pub(super) type Row<'a> = (&'a RecordBatch, usize);

/// Compares rows of one note.
pub(super) struct Judge {
    contract: Arc<Contract>,
    /// Refuses what has no order, where release 0.1.0 took texts letter by letter.
    strict: bool,
    doubts: Doubts,
    last_doubted: Option<String>,
}

/// Notes whose rows were ordered by a guess.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doubts {
    notes: u64,
    first: Option<String>,
}

impl Doubts {
    /// Adds those of the next shards.
    pub(super) fn merge(&mut self, next: Self) {
        self.notes += next.notes;
        self.first = self.first.take().or(next.first);
    }

    /// What to warn of, once all rows are judged.
    pub(super) fn warning(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let have = if self.notes == 1 { "has" } else { "have" };
        Some(format!(
            "{} {have} rows whose `updated_at` version 1 of the pipeline file orders by a guess, so that an older \
             row may have won: {first}",
            counted(self.notes, "note")
        ))
    }
}

impl Judge {
    pub(super) fn new(contract: Arc<Contract>, strict: bool) -> Self {
        Self { contract, strict, doubts: Doubts::default(), last_doubted: None }
    }

    /// Which of two rows of a note wins: newest, then a deletion, then the greater values. A total order over values,
    /// so the winner does not depend on the order of arrival; nor does a refusal, since values that can be compared
    /// with one can be compared with each other.
    pub(super) fn order(&mut self, note: &dyn Fn() -> String, a: Row, b: Row) -> Result<Ordering> {
        if let Some(place) = self.contract.updated_at {
            let order = {
                let (x, y) = (a.0.column(place), b.0.column(place));
                let (x, y) = (Stamp::of(x, a.1)?, Stamp::of(y, b.1)?);
                let meant = x.by_meaning(y);
                match (self.strict, meant) {
                    (true, Ok(order)) => order,
                    (true, Err(why)) => return Err(self.refusal(&note(), &why)),
                    (false, meant) => {
                        let released = x.as_released(y);
                        if meant != Ok(released) {
                            self.doubt(note(), meant.err());
                        }
                        released
                    }
                }
            };
            if order != Ordering::Equal {
                return Ok(order);
            }
        }
        if let Some(place) = self.contract.deleted {
            let deleted = |(batch, row): Row| is_true(batch.column(place), row);
            if deleted(a) != deleted(b) {
                return Ok(deleted(a).cmp(&deleted(b)));
            }
        }
        let spell = |(batch, row): Row| -> Result<Vec<u8>> {
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

    fn refusal(&self, note: &str, why: &Unordered) -> Error {
        let source = &self.contract.updated_source;
        Error::input(format!(
            "note {note} has rows that `updated_at` cannot order: {}; {}",
            why.why(),
            why.way_out(&source.sql, &source.key())
        ))
        .of_key("corpus.sql")
    }

    fn doubt(&mut self, note: String, why: Option<Unordered>) {
        if self.last_doubted.as_ref() == Some(&note) {
            return;
        }
        self.doubts.notes += 1;
        if self.doubts.first.is_none() {
            let source = &self.contract.updated_source;
            let said = match why {
                Some(why) => format!("{}: {}", why.why(), why.way_out(&source.sql, &source.key())),
                None => "as times their order is another: write `version = 2` in the pipeline file"
                    .to_owned(),
            };
            self.doubts.first = Some(format!("e.g. note {note}; {said}"));
        }
        self.last_doubted = Some(note);
    }

    /// The notes that it had to guess about.
    pub(super) fn doubts(&self) -> &Doubts {
        &self.doubts
    }
}
