//! Insertion into a hierarchical graph (Malkov and Yashunin, HNSW, arXiv 1603.09320, algorithms 1 and 4), one node after the other.
//!
//! A node links to the nearest that a search finds, each only if it is nearer to the node than to every one taken before it,
//! and they link back; a list that overflows is chosen again by the same rule. That alone leaves some nodes that no
//! link leads to any more (26 of 80,000 GloVe vectors). Here every node but the first has a parent among the nodes before it,
//! and no list drops the link to a parent or a child. So the base level holds a tree whose links lead both ways, and every
//! node is reached from every other, whatever was chosen again. A node takes only as many children as leave most of its list
//! to the rule.
//!
//! The result depends on the order of insertion and the distances alone: equal ones go by slot.

use std::collections::TryReserveError;

use super::near::Near;
use super::{Graph, Scratch, Shape, descend, measure, search};
use crate::distance::{
    Codes, Element, Far, Instructions, Lane, Query, SLACK, Task, inverse_lengths,
};

/// The first node has no parent.
const NONE: u32 = u32::MAX;

/// A graph in the making.
#[derive(Debug)]
pub struct GraphBuilder {
    on: Instructions,
    expansion: usize,
    /// Children of a node at most.
    most_children: u8,
    stored: Stored,
    query: Query,
    other: Query,
    walk: Scratch,
    found: Vec<Near>,
    choice: Choice,
    list: Vec<u32>,
}

/// What a graph is a view of, and its tree.
#[derive(Debug)]
struct Stored {
    element: Element,
    dimensions: usize,
    shape: Shape,
    /// Rows, then [`SLACK`] bytes.
    codes: Vec<u8>,
    inverse: Vec<f32>,
    nodes: Vec<u8>,
    below: Vec<u32>,
    /// Sum of all levels.
    levels: u32,
    entry: u32,
    top: usize,
    parents: Vec<u32>,
    children: Vec<u8>,
}

impl GraphBuilder {
    /// A graph without nodes that has the memory for `rows` nodes whose levels add up to `levels`. Every node is linked to the
    /// `shape.upper` best of `expansion` candidates at most.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        element: Element,
        dimensions: usize,
        shape: Shape,
        expansion: usize,
        rows: usize,
        levels: usize,
    ) -> Result<Self, TryReserveError> {
        let codes = rows.saturating_mul(element.row_bytes(dimensions)).saturating_add(SLACK);
        let nodes = rows
            .saturating_mul(shape.node_bytes(0))
            .saturating_add(levels.saturating_mul(shape.upper_bytes()));
        let lengths = if element == Element::I8 { rows } else { 0 };
        let mut stored = Stored {
            element,
            dimensions,
            shape,
            codes: room_for(codes)?,
            inverse: room_for(lengths)?,
            nodes: room_for(nodes)?,
            below: room_for(rows)?,
            levels: 0,
            entry: 0,
            top: 0,
            parents: room_for(rows)?,
            children: room_for(rows)?,
        };
        stored.codes.resize(SLACK, 0);
        Ok(Self {
            on: Instructions::best(),
            expansion,
            most_children: u8::try_from(shape.upper / 4).unwrap_or(u8::MAX).max(2),
            stored,
            query: Query::default(),
            other: Query::default(),
            walk: Scratch::default(),
            found: Vec::new(),
            choice: Choice::default(),
            list: Vec::new(),
        })
    }

    /// Bytes that the memory of one node takes beside its code and its lists.
    pub const BYTES_PER_NODE: usize = 4 + 4 + 4 + 1 + 1;

    /// Takes `on` in place of the best instructions of this machine.
    pub fn with_instructions(self, on: Instructions) -> Self {
        Self { on, ..self }
    }

    /// Adds a node in the levels from the base up to `level`: the bytes in front of its lists, and its row.
    ///
    /// # Panics
    /// Where `head` or `code` has another length than the shape or the dimensions say.
    pub fn insert(&mut self, head: &[u8], code: &[u8], level: usize) {
        let slot = self.stored.push(head, code, level);
        let top = self.stored.top;
        if slot > 0 {
            let Self { on, stored, query, walk, .. } = self;
            query.set(stored.element, stored.dimensions, code);
            let mut start = descend(*on, &stored.graph(), query, level.min(top), walk);
            for level in (0..=level.min(top)).rev() {
                start = self.link(slot, start, level);
            }
        }
        if slot == 0 || level > top {
            (self.stored.entry, self.stored.top) = (slot, level);
        }
    }

    /// Links a node in one level; the nearest that it links to.
    fn link(&mut self, slot: u32, start: Near, level: usize) -> Near {
        let Self { on, expansion, stored, query, other, walk, found, choice, .. } = self;
        let graph = stored.graph();
        found.clear();
        found.extend(search(*on, &graph, query, start, level, *expansion, None, walk));
        let most = stored.shape.upper;
        choice.stay.clear();
        choice.make(*on, stored.codes(), found, most, other);
        let nearest = choice.kept[0];
        let mut links = std::mem::take(&mut self.list);
        links.clear();
        links.extend(choice.kept.iter().map(|near| near.slot()));
        if level == 0 {
            let parent = stored.adopt(slot, &links, found, self.most_children);
            if !links.contains(&parent) {
                links.truncate(most - 1);
                links.push(parent);
            }
        }
        stored.set_links(slot, level, &links);
        for close in &links {
            self.link_back(*close, slot, level);
        }
        self.list = links;
        nearest
    }

    /// Adds a link to a node's list, or chooses the list again where it is full.
    fn link_back(&mut self, from: u32, to: u32, level: usize) {
        let Self { on, stored, other, found, choice, .. } = self;
        if stored.add_link(from, level, to) {
            return;
        }
        let (codes, room) = (stored.codes(), room_of(stored.shape, level));
        let Choice { slots, stay, distances, .. } = choice;
        slots.clear();
        slots.extend(stored.graph().links(from, level).chain([to]));
        stay.clear();
        if level == 0 {
            let parents = &stored.parents;
            let parent = parents[from as usize];
            let tree = |slot: &u32| *slot == parent || parents[*slot as usize] == from;
            stay.extend(slots.iter().copied().filter(tree));
        }
        other.set(codes.element(), codes.dimensions(), codes.row(from));
        on.run(codes.element(), Measured { far: Far::new(codes, other), slots, distances, found });
        choice.make(*on, codes, found, room, other);
        choice.slots.clear();
        choice.slots.extend(choice.kept.iter().map(|near| near.slot()));
        stored.set_links(from, level, &choice.slots);
    }

    /// Moves tree links to the front of every base-level list, so that truncating a list keeps them.
    pub fn finish(&mut self) {
        let stored = &mut self.stored;
        for slot in 0..stored.below.len() as u32 {
            let parent = stored.parents[slot as usize];
            let own = |other: &u32| *other == parent || stored.parents[*other as usize] == slot;
            self.list.clear();
            let graph = stored.graph();
            self.list.extend(graph.links(slot, 0).filter(own));
            self.list.extend(graph.links(slot, 0).filter(|other| !own(other)));
            stored.set_links(slot, 0, &self.list);
        }
    }

    /// Nodes.
    pub fn rows(&self) -> usize {
        self.stored.below.len()
    }

    /// The graph so far; `None` without nodes.
    pub fn graph(&self) -> Option<Graph<'_>> {
        (self.rows() > 0).then(|| self.stored.graph())
    }

    /// Where every search starts, and its level; `None` without nodes.
    pub fn entry(&self) -> Option<(u32, usize)> {
        self.graph().map(|graph| graph.entry())
    }

    /// All rows, one after the other.
    pub fn codes(&self) -> &[u8] {
        &self.stored.codes[..self.stored.codes.len() - SLACK]
    }

    /// All nodes, one after the other.
    pub fn nodes(&self) -> &[u8] {
        &self.stored.nodes
    }

    /// The level of every node.
    pub fn levels(&self) -> impl Iterator<Item = u32> {
        let next = self.stored.below.iter().skip(1).chain([&self.stored.levels]);
        self.stored.below.iter().zip(next).map(|(below, next)| next - below)
    }
}

/// Room of a list in `level`.
fn room_of(shape: Shape, level: usize) -> usize {
    if level == 0 { shape.base } else { shape.upper }
}

fn room_for<T>(elements: usize) -> Result<Vec<T>, TryReserveError> {
    let mut room = Vec::new();
    room.try_reserve_exact(elements)?;
    Ok(room)
}

impl Stored {
    fn codes(&self) -> Codes<'_> {
        let rows = self.below.len();
        // `push` keeps one code, one list offset and the trailing slack per node.
        Codes::new(self.element, self.dimensions, rows, &self.codes, &self.inverse)
            .expect("every node has a row, and slack follows them")
    }

    fn graph(&self) -> Graph<'_> {
        // The node area grows with the offsets that point into it.
        Graph::new(self.codes(), self.shape, &self.nodes, &self.below, self.entry, self.top)
            .expect("every node has its lists")
    }

    /// Stores a node without links.
    fn push(&mut self, head: &[u8], code: &[u8], level: usize) -> u32 {
        assert_eq!(head.len(), self.shape.head, "another head than the shape says");
        assert_eq!(code.len(), self.element.row_bytes(self.dimensions), "a row of another length");
        let slot = self.below.len() as u32;
        self.codes.truncate(self.codes.len() - SLACK);
        self.codes.extend_from_slice(code);
        self.codes.resize(self.codes.len() + SLACK, 0);
        if self.element == Element::I8 {
            self.inverse.extend(inverse_lengths(self.dimensions, code));
        }
        let end = self.nodes.len() + self.shape.node_bytes(level);
        self.nodes.extend_from_slice(head);
        self.nodes.resize(end, 0);
        self.below.push(self.levels);
        self.levels += level as u32;
        self.parents.push(NONE);
        self.children.push(0);
        slot
    }

    /// Gives a node a parent: the nearest with room for a child among its links, else among what was found, else below those.
    fn adopt(&mut self, slot: u32, links: &[u32], found: &[Near], most: u8) -> u32 {
        let has_room = |slot: &u32| self.children[*slot as usize] < most;
        let near = links.iter().copied().chain(found.iter().map(|near| near.slot()));
        let parent = near.clone().find(has_room).unwrap_or_else(|| {
            // A tree ends somewhere: following children leads to a node that has none.
            let mut at = links[0];
            while !has_room(&at) {
                let child = self.graph().links(at, 0).find(|to| self.parents[*to as usize] == at);
                at = child.expect("no list drops the link to a child");
            }
            at
        });
        self.parents[slot as usize] = parent;
        self.children[parent as usize] += 1;
        parent
    }

    fn list(&mut self, slot: u32, level: usize) -> &mut [u8] {
        let at = self.shape.list(slot, self.below[slot as usize], level);
        &mut self.nodes[at..at + 4 + 4 * room_of(self.shape, level)]
    }

    /// Adds a link, unless the list is full.
    fn add_link(&mut self, slot: u32, level: usize, to: u32) -> bool {
        let (count, slots) = self.list(slot, level).split_at_mut(4);
        let links = count.first_chunk().map_or(0, |count| u32::from_le_bytes(*count));
        let Some(free) = slots.as_chunks_mut::<4>().0.get_mut(links as usize) else { return false };
        *free = to.to_le_bytes();
        count.copy_from_slice(&(links + 1).to_le_bytes());
        true
    }

    fn set_links(&mut self, slot: u32, level: usize, links: &[u32]) {
        let list = self.list(slot, level);
        list.fill(0);
        let (count, slots) = list.split_at_mut(4);
        count.copy_from_slice(&(links.len() as u32).to_le_bytes());
        for (to, link) in slots.as_chunks_mut::<4>().0.iter_mut().zip(links) {
            *to = link.to_le_bytes();
        }
    }
}

/// Which candidates a node links to.
#[derive(Debug, Default)]
struct Choice {
    kept: Vec<Near>,
    /// Slots that are kept whatever the rule says.
    stay: Vec<u32>,
    left: Vec<Near>,
    slots: Vec<u32>,
    distances: Vec<f32>,
}

impl Choice {
    /// Keeps the nearest of the candidates (nearest first), then the next that is nearer to the node than to every one kept,
    /// and so on; and every one that is to `stay`. At most `room`, all where there are fewer.
    fn make(
        &mut self,
        on: Instructions,
        codes: Codes,
        candidates: &[Near],
        room: usize,
        query: &mut Query,
    ) {
        self.kept.clear();
        if candidates.len() < room {
            self.kept.extend_from_slice(candidates);
            return;
        }
        self.left.clear();
        self.left.extend_from_slice(candidates);
        on.run(codes.element(), Choosing { codes, room, query, choice: self });
    }
}

struct Choosing<'a> {
    codes: Codes<'a>,
    room: usize,
    query: &'a mut Query,
    choice: &'a mut Choice,
}

impl Task for Choosing<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lane>(self) {
        let Self { codes, room, query, choice } = self;
        let Choice { kept, stay, left, slots, distances } = choice;
        let (mut at, mut staying) = (0, stay.len());
        while let Some(next) = left.get(at).copied() {
            at += 1;
            if stay.contains(&next.slot()) {
                staying -= 1;
            } else if kept.len() + staying >= room {
                continue;
            }
            kept.push(next);
            if kept.len() == room {
                break;
            }
            query.set(codes.element(), codes.dimensions(), codes.row(next.slot()));
            slots.clear();
            slots.extend(left[at..].iter().map(|near| near.slot()));
            distances.clear();
            distances.resize(slots.len(), 0.);
            Far::new(codes, query).all::<L>(slots, distances);
            let mut end = at;
            for (from, distance) in (at..left.len()).zip(&*distances) {
                let near = left[from];
                if *distance >= near.distance() || stay.contains(&near.slot()) {
                    left[end] = near;
                    end += 1;
                }
            }
            left.truncate(end);
        }
    }
}

/// Measures the slots of a choice, nearest first.
struct Measured<'a> {
    far: Far<'a>,
    slots: &'a [u32],
    distances: &'a mut Vec<f32>,
    found: &'a mut Vec<Near>,
}

impl Task for Measured<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lane>(self) {
        let Self { far, slots, distances, found } = self;
        measure::<L>(&far, slots, distances);
        found.clear();
        found.extend(slots.iter().zip(&*distances).map(|(slot, d)| Near::new(*d, *slot)));
        found.sort_unstable();
    }
}

#[cfg(test)]
#[path = "insert_tests.rs"]
mod tests;
