//! A graph in place in memory.

use crate::distance::Codes;
use crate::prefetch::prefetch;

/// Sizes of a node: bytes in front of its lists, and how many slots its lists have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a node in front of its first list.
    pub head: usize,
    /// Room of a list in the base level.
    pub base: usize,
    /// Room of a list in every level above.
    pub upper: usize,
}

impl Shape {
    /// Bytes of a list in the base level.
    pub fn base_bytes(self) -> usize {
        4 + 4 * self.base
    }

    /// Bytes of a list in a level above.
    pub fn upper_bytes(self) -> usize {
        4 + 4 * self.upper
    }

    /// Bytes of a node whose top level is `level`.
    pub fn node_bytes(self, level: usize) -> usize {
        self.head + self.base_bytes() + level * self.upper_bytes()
    }

    /// Offset of the list of `level` of node `slot`, where `before` says how many lists above the base all nodes in
    /// front of it have together.
    #[inline(always)]
    pub fn list(self, slot: u32, before: u32, level: usize) -> usize {
        let node = slot as usize * self.node_bytes(0) + before as usize * self.upper_bytes();
        let base = node + self.head;
        if level == 0 { base } else { base + self.base_bytes() + (level - 1) * self.upper_bytes() }
    }
}

/// A graph of levels over [`Codes`], as usearch's file holds it: nodes by slot, each `shape.head` bytes, then one list
/// for every level from the base up to its own: u32 count, room for so many u32 slots; little-endian, without
/// alignment.
#[derive(Debug, Clone, Copy)]
pub struct Graph<'a> {
    codes: Codes<'a>,
    shape: Shape,
    nodes: &'a [u8],
    lists_before: &'a [u32],
    entry: u32,
    top: usize,
}

impl<'a> Graph<'a> {
    /// `nodes` begins with the first node. `lists_before[slot]` is how many lists above the base all nodes before
    /// `slot` have together: the sum of their levels. Every search
    /// starts at `entry`, whose own level is `top`. `None` where the sizes do not fit.
    ///
    /// A list that claims more slots than it has room for counts as full; a slot beyond the nodes makes a search panic.
    pub fn new(
        codes: Codes<'a>,
        shape: Shape,
        nodes: &'a [u8],
        lists_before: &'a [u32],
        entry: u32,
        top: usize,
    ) -> Option<Self> {
        let rows = codes.rows();
        let last = u32::try_from(rows.checked_sub(1)?).ok()?;
        (lists_before.len() == rows && entry <= last).then_some(())?;
        let end = shape.list(last, lists_before[last as usize], 0) + shape.base_bytes();
        (end <= nodes.len()).then_some(Self { codes, shape, nodes, lists_before, entry, top })
    }

    /// The stored vectors.
    pub fn codes(&self) -> Codes<'a> {
        self.codes
    }

    /// Where every search starts, and its level.
    pub fn entry(&self) -> (u32, usize) {
        (self.entry, self.top)
    }

    /// Slots that node `slot` links to in `level`, which must not be above the node's own.
    ///
    /// # Panics
    /// Beyond the nodes.
    #[inline(always)]
    pub fn links(&self, slot: u32, level: usize) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let at = self.shape.list(slot, self.lists_before[slot as usize], level);
        let room = if level == 0 { self.shape.base } else { self.shape.upper };
        let (count, slots) = self.nodes[at..at + 4 + 4 * room].split_at(4);
        let le = |four: &[u8; 4]| u32::from_le_bytes(*four);
        let count = count.first_chunk().map_or(0, le) as usize;
        slots[..4 * count.min(room)].as_chunks::<4>().0.iter().map(le)
    }

    /// Asks for the base-level list of a node before it is read.
    #[inline(always)]
    pub(super) fn prefetch(&self, slot: u32) {
        let at = self.shape.list(slot, self.lists_before[slot as usize], 0);
        prefetch(self.nodes, at, self.shape.base_bytes());
    }
}
