//! What a condition on stored columns lets pass.

use crate::index::RowSet;
use crate::types::Digest256;

/// The notes of one snapshot's content that pass a condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Passing {
    pub(super) content: Digest256,
    /// By open segment.
    pub(super) rows: Vec<RowSet>,
}

impl Passing {
    /// Vectors that pass: at least as many as notes.
    pub fn vectors(&self) -> usize {
        self.rows.iter().map(RowSet::len).sum()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(RowSet::bytes).sum()
    }
}
