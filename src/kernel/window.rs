//! Which keys a query sees.

use std::ops::Range;

/// The keys that a query sees, by their distance from its own position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many keys before its own position.
    pub before: usize,
    /// How many behind it.
    pub after: usize,
}

impl Window {
    /// All of a sequence.
    pub const FULL: Self = Self { before: usize::MAX, after: usize::MAX };
    /// Those up to its own position.
    pub const CAUSAL: Self = Self { before: usize::MAX, after: 0 };

    /// The keys that the query at `position` of a sequence of `len` sees.
    #[inline(always)]
    pub fn keys(self, position: usize, len: usize) -> Range<usize> {
        let end = position.saturating_add(self.after).saturating_add(1);
        position.saturating_sub(self.before)..end.min(len)
    }

    /// The most keys that any query of a sequence of `len` sees.
    pub fn most(self, len: usize) -> usize {
        self.before.saturating_add(self.after).saturating_add(1).min(len)
    }
}
