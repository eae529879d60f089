//! A packed batch: laid out on the host in one piece of memory, and the same on the device.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use super::attention::{Attention, Groups, Staged};
use super::transfer::words;
use crate::tower::model::pool::Want;

/// A batch as the device needs it, in one copy.
pub(crate) struct Planned {
    pub(super) words: Vec<u32>,
    ids: Range<usize>,
    positions: Range<usize>,
    last: Range<usize>,
    first: Range<usize>,
    groups: Staged,
    want: Want,
}

/// The batch on the device.
pub(super) struct Batch {
    /// Of every token.
    pub(super) ids: Tensor,
    /// The row of every token in a table of positions.
    pub(super) positions: Tensor,
    /// How the rows belong to sequences.
    pub(super) groups: Groups,
    last: Tensor,
    first: Tensor,
    want: Want,
}

impl Planned {
    /// `positions` gives a row for every token.
    pub(super) fn new(
        attention: &Attention,
        sequences: &[&[u32]],
        positions: impl Iterator<Item = u32>,
        want: Want,
    ) -> Self {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
        let mut staged = Vec::new();
        let ids = words(&mut staged, sequences.iter().copied().flatten().copied());
        let positions = words(&mut staged, positions);
        let last = words(
            &mut staged,
            lengths.iter().scan(0, |end, length| {
                *end += *length as u32;
                Some(*end - 1)
            }),
        );
        let first = words(
            &mut staged,
            lengths.iter().scan(0, |start, length| {
                *start += *length as u32;
                Some(*start - *length as u32)
            }),
        );
        let pools = matches!(want, Want::Pooled(_));
        let groups = attention.stage(&lengths, pools, &mut staged);
        Self { words: staged, ids, positions, last, first, groups, want }
    }

    /// The batch, once its words are on the device.
    pub(super) fn arrived(self, attention: &Attention, words: &Tensor) -> Result<Batch> {
        let part = |range: &Range<usize>| words.narrow(0, range.start, range.len());
        Ok(Batch {
            ids: part(&self.ids)?,
            positions: part(&self.positions)?,
            last: part(&self.last)?,
            first: part(&self.first)?,
            groups: attention.groups(self.groups, words)?,
            want: self.want,
        })
    }
}

impl Batch {
    /// What is wanted of the states of all tokens, in f32.
    pub(super) fn wanted(&self, states: &Tensor) -> Result<Tensor> {
        let rows = |rows: &Tensor| states.index_select(rows, 0)?.to_dtype(DType::F32);
        match self.want {
            Want::All => states.to_dtype(DType::F32),
            Want::Last => rows(&self.last),
            Want::First => rows(&self.first),
            Want::Pooled(pool) => self.groups.pool(&states.to_dtype(DType::F32)?, pool),
        }
    }
}
