//! usearch's file format, version 2, read by ourselves: every offset is checked before it is followed.
//!
//! ```text
//! u32 rows, u32 bytes per vector        then rows x bytes: the vectors by slot
//! 64 bytes head                         "usearch", version, metric, scalar, key and slot kind, counts, dimensions
//! u64 size, connectivity, connectivity of the base level, top level, entry slot
//! size x i16                            level of every node
//! nodes                                 u64 key, i16 level, then per level: u32 count, room for u32 slots
//! ```
//!
//! The base level has room for `connectivity of the base level` slots, every other for `connectivity`.
//! All numbers are little-endian. Source: `save_to_stream` in usearch's index_dense.hpp and index.hpp.

use crate::error::{Error, Result};
use crate::kernel::graph::Shape;

/// Largest connectivity taken from a file or from options: twice this many u32 links per node.
pub(in crate::index) const MAX_CONNECTIVITY: usize = 1_024;
/// The key that marks a removed node.
pub(in crate::index) const FREE_KEY: u64 = u64::MAX;

pub(in crate::index) const MAGIC: &[u8] = b"usearch";
pub(in crate::index) const HEAD: usize = 64;
pub(in crate::index) const GRAPH_HEAD: usize = 40;
/// Key and level in front of a node's links.
pub(in crate::index) const NODE_HEAD: usize = 10;
pub(in crate::index) const KIND_U64: u8 = 14;
pub(in crate::index) const KIND_U32: u8 = 15;

/// Where everything is in a checked file. Only [`Layout::parse`] makes one, so the accessors may
/// index the same bytes without fear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::index) struct Layout {
    /// Nodes, removed ones included.
    pub size: usize,
    /// Removed nodes.
    pub deleted: usize,
    /// Elements of a vector.
    pub dimensions: usize,
    /// Bytes of a vector.
    pub vector_bytes: usize,
    /// usearch's letter for the metric.
    pub metric: u8,
    /// usearch's number for the element type.
    pub scalar: u8,
    /// Most links of a node in levels above the base.
    pub connectivity: usize,
    /// Most links of a node in the base level.
    pub base: usize,
    /// Where every search starts.
    pub entry: u32,
    /// Top level of the graph: the level of the entry node.
    pub top: usize,
    /// Offset of the 64-byte head.
    pub head: usize,
    /// Per node, how many lists above the base level all nodes in front of it have together.
    lists_before: Vec<u32>,
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("not a whole usearch index: {what}; fetch it again or rebuild it"))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N).ok_or_else(|| corrupt("an offset overflows"))?;
    bytes.get(at..end).and_then(|found| found.try_into().ok()).ok_or_else(|| {
        corrupt(format_args!("it ends at byte {}, inside a field at {at}", bytes.len()))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes_at(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes_at(bytes, at)?))
}

fn i16_at(bytes: &[u8], at: usize) -> Result<i16> {
    Ok(i16::from_le_bytes(bytes_at(bytes, at)?))
}

/// Bits of one element of a usearch scalar kind that we write.
fn scalar_bits(kind: u8) -> Option<usize> {
    match kind {
        1 => Some(1),
        4 | 12 => Some(16),
        11 => Some(32),
        23 => Some(8),
        _ => None,
    }
}

impl Layout {
    /// Checks a whole file: sizes, kinds, levels, every link. Reads all of the graph, none of the vectors.
    ///
    /// Memory: 4 bytes a node, and a node takes more than that in the file.
    ///
    /// # Errors
    /// Corrupt, naming what does not fit.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let size = u32_at(bytes, 0)? as usize;
        let vector_bytes = u32_at(bytes, 4)? as usize;
        let head = size
            .checked_mul(vector_bytes)
            .and_then(|matrix| matrix.checked_add(8))
            .filter(|head| *head <= bytes.len())
            .ok_or_else(|| corrupt(format_args!("{size} vectors are longer than the file")))?;
        let mut layout = Self { size, vector_bytes, head, ..Self::parse_head(bytes, head)? };
        layout.check_counts(bytes)?;
        let graph = head + HEAD;
        let stored = u64_at(bytes, graph)?;
        if stored != size as u64 {
            return Err(corrupt(format_args!("{size} vectors but {stored} nodes")));
        }
        let (connectivity, base) = (u64_at(bytes, graph + 8)?, u64_at(bytes, graph + 16)?);
        let top = u64_at(bytes, graph + 24)?;
        let entry = u64_at(bytes, graph + 32)?;
        if !(2..=MAX_CONNECTIVITY as u64).contains(&connectivity)
            || !(connectivity..=2 * MAX_CONNECTIVITY as u64).contains(&base)
        {
            return Err(corrupt(format_args!("connectivity {connectivity} and {base}")));
        }
        // Both fit: they were just bounded.
        (layout.connectivity, layout.base) = (connectivity as usize, base as usize);
        if size == 0 {
            return if bytes.len() == graph + GRAPH_HEAD {
                Ok(layout)
            } else {
                Err(corrupt("bytes follow an empty graph"))
            };
        }
        if entry >= size as u64 {
            return Err(corrupt(format_args!("entry slot {entry} of {size}")));
        }
        layout.entry = entry as u32;
        layout.place_nodes(bytes, top)?;
        layout.check_links(bytes)?;
        Ok(layout)
    }

    fn parse_head(bytes: &[u8], head: usize) -> Result<Self> {
        let raw: [u8; HEAD] = bytes_at(bytes, head)?;
        if !raw.starts_with(MAGIC) {
            return Err(corrupt("its magic number is missing"));
        }
        let major = u16::from_le_bytes([raw[7], raw[8]]);
        let minor = u16::from_le_bytes([raw[9], raw[10]]);
        if major != 2 || minor < 10 {
            return Err(corrupt(format_args!(
                "format version {major}.{minor}, known are 2.10 and later"
            )));
        }
        let (metric, scalar) = (raw[13], raw[14]);
        if !b"icb".contains(&metric) || raw[15] != KIND_U64 || raw[16] != KIND_U32 {
            return Err(corrupt("an unknown metric, key or slot kind"));
        }
        if raw[41] != 0 {
            return Err(corrupt("it holds several vectors per key"));
        }
        let dimensions = u64_at(&raw, 33)?;
        Ok(Self {
            size: 0,
            deleted: usize::try_from(u64_at(&raw, 25)?)
                .map_err(|_| corrupt("a count overflows"))?,
            dimensions: usize::try_from(dimensions).map_err(|_| corrupt("dimensions overflow"))?,
            vector_bytes: 0,
            metric,
            scalar,
            connectivity: 0,
            base: 0,
            entry: 0,
            top: 0,
            head,
            lists_before: Vec::new(),
        })
    }

    fn check_counts(&self, bytes: &[u8]) -> Result<()> {
        let present = u64_at(bytes, self.head + 17)?;
        if present.checked_add(self.deleted as u64) != Some(self.size as u64) {
            return Err(corrupt(format_args!(
                "{present} present and {} removed of {} vectors",
                self.deleted, self.size
            )));
        }
        let expected = scalar_bits(self.scalar)
            .and_then(|bits| bits.checked_mul(self.dimensions))
            .map(|bits| bits.div_ceil(8));
        if self.dimensions == 0 || expected != Some(self.vector_bytes) {
            return Err(corrupt(format_args!(
                "{} bytes for {} dimensions of scalar kind {}",
                self.vector_bytes, self.dimensions, self.scalar
            )));
        }
        Ok(())
    }

    fn place_nodes(&mut self, bytes: &[u8], top: u64) -> Result<()> {
        let levels = self.head + HEAD + GRAPH_HEAD;
        // The least room that this many nodes need bounds what is allocated below.
        let least =
            self.size.checked_mul(2 + self.node_bytes(0)).and_then(|all| all.checked_add(levels));
        if least.is_none_or(|least| least > bytes.len()) {
            return Err(corrupt(format_args!("{} nodes are longer than the file", self.size)));
        }
        let mut at = levels + 2 * self.size;
        let (mut lists, mut lists_before) = (0u32, Vec::with_capacity(self.size));
        for slot in 0..self.size {
            let level = i16_at(bytes, levels + 2 * slot)?;
            let level = usize::try_from(level)
                .ok()
                .filter(|level| *level as u64 <= top)
                .ok_or_else(|| corrupt(format_args!("node {slot} at level {level} of {top}")))?;
            lists_before.push(lists);
            lists = u32::try_from(level)
                .ok()
                .and_then(|level| lists.checked_add(level))
                .ok_or_else(|| corrupt("more than 2^32 lists above the base level"))?;
            at += self.node_bytes(level);
            if at > bytes.len() {
                return Err(corrupt(format_args!("node {slot} is longer than the file")));
            }
        }
        if at != bytes.len() {
            return Err(corrupt(format_args!("{} bytes follow the last node", bytes.len() - at)));
        }
        self.lists_before = lists_before;
        // It fits: no node's level is above it, and those are i16.
        self.top = top as usize;
        let entry = i16_at(bytes, levels + 2 * self.entry as usize)?;
        if entry as u64 != top {
            return Err(corrupt(format_args!("the entry node is at level {entry}, not {top}")));
        }
        Ok(())
    }

    fn check_links(&self, bytes: &[u8]) -> Result<()> {
        let levels = self.head + HEAD + GRAPH_HEAD;
        let level_of = |slot: usize| i16_at(bytes, levels + 2 * slot);
        let mut removed = 0;
        for slot in 0..self.size {
            let level = i16_at(bytes, self.node(slot) + 8)?;
            if level != level_of(slot)? {
                return Err(corrupt(format_args!("node {slot} contradicts its own level")));
            }
            removed += usize::from(self.key(bytes, slot) == FREE_KEY);
            for at_level in 0..=level {
                let links = self.list(slot, at_level as usize);
                let most = if at_level == 0 { self.base } else { self.connectivity };
                let count = u32_at(bytes, links)? as usize;
                if count > most {
                    return Err(corrupt(format_args!("node {slot} has {count} links of {most}")));
                }
                for link in 0..count {
                    let to = u32_at(bytes, links + 4 + 4 * link)? as usize;
                    if to >= self.size || level_of(to)? < at_level {
                        return Err(corrupt(format_args!(
                            "node {slot} links to {to}, which is not there"
                        )));
                    }
                }
            }
        }
        if removed != self.deleted {
            return Err(corrupt(format_args!(
                "{removed} nodes without a key, {} removed",
                self.deleted
            )));
        }
        Ok(())
    }

    /// Sizes of a node.
    pub fn shape(&self) -> Shape {
        Shape { head: NODE_HEAD, base: self.base, upper: self.connectivity }
    }

    /// Bytes of a node whose top level is `level`.
    pub fn node_bytes(&self, level: usize) -> usize {
        self.shape().node_bytes(level)
    }

    /// Offset of the first node.
    pub fn nodes(&self) -> usize {
        self.head + HEAD + GRAPH_HEAD + 2 * self.size
    }

    /// Per node, how many lists above the base level all nodes in front of it have together.
    pub fn lists_before(&self) -> &[u32] {
        &self.lists_before
    }

    /// Offset of the links of node `slot` in `level`.
    fn list(&self, slot: usize, level: usize) -> usize {
        self.nodes() + self.shape().list(slot as u32, self.lists_before[slot], level)
    }

    /// Offset of node `slot`.
    pub fn node(&self, slot: usize) -> usize {
        self.list(slot, 0) - NODE_HEAD
    }

    /// Key of node `slot`; [`FREE_KEY`] if it was removed.
    pub fn key(&self, bytes: &[u8], slot: usize) -> u64 {
        let at = self.node(slot);
        bytes[at..at + 8].iter().rev().fold(0, |key, byte| key << 8 | u64::from(*byte))
    }

    /// Stored vector of node `slot`.
    pub fn vector<'a>(&self, bytes: &'a [u8], slot: usize) -> &'a [u8] {
        let at = 8 + slot * self.vector_bytes;
        &bytes[at..at + self.vector_bytes]
    }

    /// Links of node `slot` in the base level.
    pub fn links<'a>(
        &self,
        bytes: &'a [u8],
        slot: usize,
    ) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let at = self.node(slot) + NODE_HEAD;
        let le = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        let count = le(&bytes[at..at + 4]) as usize;
        bytes[at + 4..at + 4 + 4 * count].chunks_exact(4).map(le)
    }

    /// Adds a link in the base level, unless the node's list is full.
    pub fn add_link(&self, bytes: &mut [u8], slot: usize, to: u32) -> bool {
        let count = self.links(bytes, slot).len();
        if count >= self.base {
            return false;
        }
        let at = self.node(slot) + NODE_HEAD;
        bytes[at..at + 4].copy_from_slice(&(count as u32 + 1).to_le_bytes());
        bytes[at + 4 + 4 * count..at + 8 + 4 * count].copy_from_slice(&to.to_le_bytes());
        true
    }
}
