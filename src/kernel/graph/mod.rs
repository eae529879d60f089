//! Search in a hierarchical graph (Malkov and Yashunin, HNSW, arXiv 1603.09320), over a mapped file or one in the making.
//!
//! ```text
//! let graph = Graph::new(codes, shape, nodes, &lists_before, entry, top)?;       // a cheap view; recreate it after each change
//! let mut scratch = Scratch::default();                                    // one a thread, for graphs of any size
//! let start = descend(on, &graph, &query, 0, &mut scratch);                // greedy, from the entry down to above level 0
//! let found = search(on, &graph, &query, start, 0, expansion, None, &mut scratch);   // nearest first
//! ```
//!
//! [`search`] keeps the `expansion` nearest of what it meets in one level and ends when the nearest node that it has not
//! looked at is farther than all of them. With `passes`, only slots for which it is true are kept, and the walk also leads
//! through the others. The result depends on nothing but the graph and the query: equal distances go by slot.
//!
//! [`GraphBuilder`] inserts with the same calls: `descend` to the new node's level, `search` in each level below, from what the
//! level above found. The lists of an unfinished node are empty, and no link leads to it.
//!
//! What makes it fast: marks of seen slots by epoch, one byte each; all unseen neighbours of a node are asked for before the
//! first distance is measured; distances in groups of four with the query in registers; distance and slot in one sortable
//! number.

mod insert;
mod marks;
mod near;
mod view;

pub use self::insert::GraphBuilder;
pub use self::near::Near;
pub use self::view::{Graph, Shape};

use self::marks::Marks;
use self::near::{Nearest, Queue};
use crate::distance::{Far, Instructions, Lane, Query, Task};

/// Memory of a walk, used again by the next.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    marks: Marks,
    queue: Queue,
    nearest: Nearest,
    unseen: Vec<u32>,
    distances: Vec<f32>,
    found: Vec<Near>,
}

impl Scratch {
    /// Bytes that it holds for marks; the rest does not grow with the graph.
    pub fn bytes(&self) -> usize {
        self.marks.bytes()
    }
}

/// Chooses among slots.
pub type Passes<'a> = &'a dyn Fn(u32) -> bool;

/// The nearest node that is reached greedily from the entry, one level after the other, down to the one above `level`.
///
/// # Panics
/// Where a link leads beyond the nodes, or the query is of another form than the codes.
pub fn descend(
    on: Instructions,
    graph: &Graph,
    query: &Query,
    level: usize,
    scratch: &mut Scratch,
) -> Near {
    let far = Far::new(graph.codes(), query);
    on.run(graph.codes().element(), Descent { graph, far, level, scratch })
}

/// The `expansion` nearest that a walk in `level` from `start` meets, nearest first.
///
/// # Panics
/// As [`descend`].
#[allow(clippy::too_many_arguments)]
pub fn search<'a>(
    on: Instructions,
    graph: &Graph,
    query: &Query,
    start: Near,
    level: usize,
    expansion: usize,
    passes: Option<Passes>,
    scratch: &'a mut Scratch,
) -> &'a [Near] {
    let far = Far::new(graph.codes(), query);
    let element = graph.codes().element();
    on.run(element, Beam { graph, far, start, level, expansion, passes, scratch: &mut *scratch });
    scratch.nearest.drain_sorted(&mut scratch.found);
    &scratch.found
}

struct Descent<'a> {
    graph: &'a Graph<'a>,
    far: Far<'a>,
    level: usize,
    scratch: &'a mut Scratch,
}

impl Task for Descent<'_> {
    type Output = Near;

    #[inline(always)]
    fn run<L: Lane>(self) -> Near {
        let Self { graph, far, level: end, scratch: Scratch { unseen, distances, .. } } = self;
        let (entry, top) = graph.entry();
        let mut nearest = Near::new(far.one::<L>(entry), entry);
        for level in (end + 1..=top).rev() {
            loop {
                unseen.clear();
                unseen.extend(graph.links(nearest.slot(), level));
                measure::<L>(&far, unseen, distances);
                let nears = unseen.iter().zip(&*distances).map(|(slot, d)| Near::new(*d, *slot));
                let Some(best) = nears.min().filter(|best| best < &nearest) else { break };
                nearest = best;
            }
        }
        nearest
    }
}

struct Beam<'a> {
    graph: &'a Graph<'a>,
    far: Far<'a>,
    start: Near,
    level: usize,
    expansion: usize,
    passes: Option<Passes<'a>>,
    scratch: &'a mut Scratch,
}

impl Task for Beam<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lane>(self) {
        let Self { graph, far, start, level, expansion, passes, scratch } = self;
        let Scratch { marks, queue, nearest, unseen, distances, .. } = scratch;
        let keeps = |slot| passes.is_none_or(|passes| passes(slot));
        marks.begin(graph.codes().rows());
        nearest.begin(expansion);
        queue.clear();
        marks.mark(start.slot());
        queue.push(start);
        if keeps(start.slot()) {
            nearest.offer(start);
        }
        while let Some(next) = queue.pop() {
            if nearest.ends_before(next) {
                break;
            }
            // Its list is needed next, unless one of the neighbours turns out nearer.
            if let Some(second) = queue.first().filter(|_| level == 0) {
                graph.prefetch(second.slot());
            }
            unseen.clear();
            unseen.extend(graph.links(next.slot(), level).filter(|slot| marks.mark(*slot)));
            measure::<L>(&far, unseen, distances);
            for (slot, distance) in unseen.iter().zip(&*distances) {
                let near = Near::new(*distance, *slot);
                if !nearest.takes(near) {
                    continue;
                }
                if queue.push(near) && level == 0 {
                    graph.prefetch(*slot);
                }
                if keeps(*slot) {
                    nearest.offer(near);
                }
            }
        }
    }
}

/// Asks for all rows, then measures them.
#[inline(always)]
fn measure<L: Lane>(far: &Far, slots: &[u32], distances: &mut Vec<f32>) {
    slots.iter().for_each(|slot| far.prefetch(*slot));
    distances.clear();
    distances.resize(slots.len(), 0.);
    far.all::<L>(slots, distances);
}

#[cfg(test)]
mod tests;
