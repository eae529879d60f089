//! Writes a whole usearch file, format version 2, from a graph in memory; `format` has the layout.

use std::io::{self, Write};

use super::format::{GRAPH_HEAD, HEAD, KIND_U32, KIND_U64, MAGIC, NODE_HEAD};
use crate::kernel::graph::{GraphBuilder, Shape};

/// The release of usearch whose bytes these are.
const VERSION: [u16; 3] = [2, 26, 6];

/// What the file says about its vectors.
#[derive(Debug, Clone, Copy)]
pub(in crate::index) struct About {
    /// Elements of a vector.
    pub dimensions: usize,
    /// Bytes of a vector.
    pub vector_bytes: usize,
    /// usearch's letter for the metric and number for the element type.
    pub kinds: (u8, u8),
    /// Most links of a node in levels above the base; twice as many in it.
    pub connectivity: usize,
}

impl About {
    /// Sizes of a node in the file.
    pub fn shape(&self) -> Shape {
        Shape { head: NODE_HEAD, base: 2 * self.connectivity, upper: self.connectivity }
    }
}

/// What is in front of a node's links.
pub(in crate::index) fn node_head(key: u64, level: usize) -> [u8; NODE_HEAD] {
    let mut head = [0; NODE_HEAD];
    head[..8].copy_from_slice(&key.to_le_bytes());
    head[8..].copy_from_slice(&(level as u16).to_le_bytes());
    head
}

/// Bytes that [`write_graph`] writes.
pub(in crate::index) fn graph_bytes(graph: &GraphBuilder, codes: &[u8]) -> u64 {
    let ends = 8 + HEAD + GRAPH_HEAD + 2 * graph.rows();
    (codes.len() + ends + graph.nodes().len()) as u64
}

/// Writes the graph, whose nodes begin with [`node_head`]s and have the shape of `about`, with `codes` as its vectors.
pub(in crate::index) fn write_graph(
    graph: &GraphBuilder,
    codes: &[u8],
    about: &About,
    out: &mut impl Write,
) -> io::Result<()> {
    let rows = graph.rows();
    out.write_all(&(rows as u32).to_le_bytes())?;
    out.write_all(&(about.vector_bytes as u32).to_le_bytes())?;
    out.write_all(codes)?;
    out.write_all(&head(rows, about))?;
    // usearch's top level without nodes is -1.
    let (entry, top) = graph.entry().map_or((0, u64::MAX), |(entry, top)| (entry, top as u64));
    let shape = about.shape();
    for number in [rows as u64, shape.upper as u64, shape.base as u64, top, u64::from(entry)] {
        out.write_all(&number.to_le_bytes())?;
    }
    for level in graph.levels() {
        out.write_all(&(level as u16).to_le_bytes())?;
    }
    out.write_all(graph.nodes())
}

fn head(rows: usize, about: &About) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..7].copy_from_slice(MAGIC);
    for (at, number) in VERSION.into_iter().enumerate() {
        head[7 + 2 * at..9 + 2 * at].copy_from_slice(&number.to_le_bytes());
    }
    let (metric, scalar) = about.kinds;
    head[13..17].copy_from_slice(&[metric, scalar, KIND_U64, KIND_U32]);
    head[17..25].copy_from_slice(&(rows as u64).to_le_bytes());
    // None removed: 25..33.
    head[33..41].copy_from_slice(&(about.dimensions as u64).to_le_bytes());
    // One vector a key: 41.
    head
}
