//! Searching a mapped usearch file.

use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;

use super::options::IndexOptions;
use super::quantize::{Calibration, Encoder};
use crate::error::{Error, Result};
use crate::index::file::format::Layout;
use crate::kernel::distance::{Codes, Element, Instructions, Query, inverse_lengths};
use crate::kernel::graph::{Graph, Passes, Scratch, descend, search};

/// Beside the map 8 bytes a vector, 12 where it is of 8-bit integers, and one more for every search that runs at the same
/// time.
pub(super) struct Walk {
    bytes: Mmap,
    layout: Layout,
    element: Element,
    /// One over the length of every vector of 8-bit integers.
    inverse: Vec<f32>,
    /// Row of the sidecar by slot; [`REMOVED`] where there is none.
    rows: Vec<u32>,
    instructions: Instructions,
    /// What the search before has left, one for each that ran at the same time.
    idle: Mutex<Vec<Searcher>>,
    encoder: Encoder,
}

/// Where a row number would stand. No shard has so many rows: see `check_rows` in `build`.
pub(super) const REMOVED: u32 = u32::MAX;

/// What a search writes to.
struct Searcher {
    encoder: Encoder,
    query: Query,
    scratch: Scratch,
}

/// One candidate: its row of the sidecar, and its distance in the graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub row: u32,
    pub distance: f32,
}

impl Walk {
    /// Of a file of these options that [`Layout::parse`] has checked; `rows` has the row of the sidecar by slot, or
    /// [`REMOVED`].
    ///
    /// # Errors
    /// Corrupt where its vectors are longer than the kernels take.
    pub fn new(
        bytes: Mmap,
        layout: Layout,
        rows: Vec<u32>,
        options: &IndexOptions,
        calibration: &Calibration,
    ) -> Result<Self> {
        let element = options.quantization.measured();
        let inverse = match element {
            Element::I8 => inverse_lengths(layout.dimensions, &bytes[8..layout.head]),
            _ => Vec::new(),
        };
        let walk = Self {
            bytes,
            layout,
            element,
            inverse,
            rows,
            instructions: Instructions::best(),
            idle: Mutex::default(),
            encoder: Encoder::new(options, calibration),
        };
        if walk.layout.size > 0 && walk.graph().is_none() {
            return Err(Error::corrupt(format!(
                "vectors of {} dimensions are longer than any search takes",
                walk.layout.dimensions
            )));
        }
        Ok(walk)
    }

    /// `None` without vectors.
    fn graph(&self) -> Option<Graph<'_>> {
        let Layout { dimensions, size, entry, top, .. } = self.layout;
        // The head of the file lies behind the last vector: more than the kernels want there.
        let codes = Codes::new(self.element, dimensions, size, &self.bytes[8..], &self.inverse)?;
        let nodes = &self.bytes[self.layout.nodes()..];
        let lists_before = self.layout.lists_before();
        Graph::new(codes, self.layout.shape(), nodes, lists_before, entry, top)
    }

    /// The `count` nearest to a unit vector that a walk keeping at least `expansion` finds, nearest first; with `passes`
    /// among the rows that pass, while the walk also leads through those that do not.
    pub fn nearest(
        &self,
        unit: &[f32],
        count: usize,
        expansion: usize,
        passes: Option<&dyn Fn(usize) -> bool>,
    ) -> Vec<Candidate> {
        let Some(graph) = self.graph() else { return Vec::new() };
        let mut searcher = self.sit();
        let Searcher { encoder, query, scratch } = &mut searcher;
        encoder.ask(unit, self.element, query);
        let row = |slot: u32| self.rows[slot as usize];
        let chosen = |slot: u32| {
            row(slot) != REMOVED && passes.is_none_or(|passes| passes(row(slot) as usize))
        };
        let all = passes.is_none() && self.layout.deleted == 0;
        let passes: Option<Passes> = if all { None } else { Some(&chosen) };
        let on = self.instructions;
        let start = descend(on, &graph, query, 0, scratch);
        let found = search(on, &graph, query, start, 0, expansion.max(count), passes, scratch);
        let found = found.iter().take(count);
        let found =
            found.map(|near| Candidate { row: row(near.slot()), distance: near.distance() });
        let found = found.collect();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(searcher);
        found
    }

    fn sit(&self) -> Searcher {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Searcher {
            encoder: self.encoder.clone(),
            query: Query::default(),
            scratch: Scratch::default(),
        })
    }
}
