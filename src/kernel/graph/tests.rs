//! Walks over made-up graphs against the textbook's algorithm.

use super::*;
use crate::distance::{Codes, Element, SLACK, distances, inverse_lengths};

/// SplitMix64.
pub(super) fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const SHAPE: Shape = Shape { head: 10, base: 8, upper: 4 };
const DIMENSIONS: usize = 12;

/// A random graph: every node links to eight others, every eighth also to four of its kind in level 1, every 64th in 2.
struct Random {
    codes: Vec<u8>,
    inverse: Vec<f32>,
    nodes: Vec<u8>,
    lists_before: Vec<u32>,
    rows: usize,
}

impl Random {
    fn new(rows: usize, seed: u64) -> Self {
        let bytes = (0..rows * DIMENSIONS).map(|at| mix(seed ^ (at as u64) << 8) as u8);
        let mut codes: Vec<u8> = bytes.map(|x| if x == 128 { 0 } else { x }).collect();
        let inverse = inverse_lengths(DIMENSIONS, &codes);
        codes.resize(rows * DIMENSIONS + SLACK, 0xff);
        let (mut nodes, mut lists_before, mut levels) = (Vec::new(), Vec::new(), 0);
        for slot in 0..rows {
            let level = Self::level(slot);
            lists_before.push(levels);
            levels += level as u32;
            nodes.extend([0xff; 10]);
            for (at, room) in [SHAPE.base, SHAPE.upper, SHAPE.upper][..=level].iter().enumerate() {
                let kind = 8usize.pow(at as u32);
                let links = (0..*room as u64).map(|link| {
                    let other = mix(seed ^ (slot as u64) << 20 ^ link << 4 ^ at as u64);
                    (other % (rows.div_ceil(kind)) as u64) as u32 * kind as u32
                });
                nodes.extend((*room as u32).to_le_bytes());
                links.for_each(|to| nodes.extend(to.to_le_bytes()));
            }
        }
        Self { codes, inverse, nodes, lists_before, rows }
    }

    fn level(slot: usize) -> usize {
        usize::from(slot.is_multiple_of(8)) + usize::from(slot.is_multiple_of(64))
    }

    fn graph(&self) -> Graph<'_> {
        let codes =
            Codes::new(Element::I8, DIMENSIONS, self.rows, &self.codes, &self.inverse).unwrap();
        Graph::new(codes, SHAPE, &self.nodes, &self.lists_before, 0, 2).unwrap()
    }
}

fn query(seed: u64) -> Query {
    let bytes: Vec<u8> = (0..DIMENSIONS as u64).map(|at| mix(seed ^ at) as u8 | 1).collect();
    let mut query = Query::default();
    query.set(Element::I8, DIMENSIONS, &bytes);
    query
}

fn distance(graph: &Graph, query: &Query, slot: u32) -> Near {
    let mut out = [0.];
    distances(Instructions::Portable, graph.codes(), query, &[slot], &mut out);
    Near::new(out[0], slot)
}

/// Search as the paper writes it, with sets in place of heaps.
fn textbook(
    graph: &Graph,
    query: &Query,
    expansion: usize,
    passes: &dyn Fn(u32) -> bool,
) -> Vec<Near> {
    let (mut nearest, top) = (distance(graph, query, graph.entry().0), graph.entry().1);
    for level in (1..=top).rev() {
        loop {
            let links = graph.links(nearest.slot(), level);
            let best = links.map(|slot| distance(graph, query, slot)).min().unwrap();
            if best >= nearest {
                break;
            }
            nearest = best;
        }
    }
    let mut seen = std::collections::BTreeSet::from([nearest.slot()]);
    let mut queue = std::collections::BTreeSet::from([nearest]);
    let mut kept: Vec<Near> = [nearest].into_iter().filter(|near| passes(near.slot())).collect();
    while let Some(next) = queue.pop_first() {
        if kept.len() == expansion && next.distance() > kept[expansion - 1].distance() {
            break;
        }
        for slot in graph.links(next.slot(), 0) {
            if !seen.insert(slot) {
                continue;
            }
            let near = distance(graph, query, slot);
            if kept.len() < expansion || near < kept[expansion - 1] {
                queue.insert(near);
                if passes(slot) {
                    kept.push(near);
                    kept.sort_unstable();
                    kept.truncate(expansion);
                }
            }
        }
    }
    kept
}

#[test]
fn walks_find_what_the_textbook_finds() {
    let mut scratch = Scratch::default();
    for rows in [1, 7, 300, 5_000] {
        let random = Random::new(rows, rows as u64);
        let graph = random.graph();
        for asked in 0..40 {
            let query = query(1_000 + asked);
            for (expansion, of) in [(1, 1), (10, 1), (64, 1), (10, 3), (30, 50)] {
                let passes = |slot: u32| mix(u64::from(slot)).is_multiple_of(of);
                let expected = textbook(&graph, &query, expansion, &passes);
                for on in Instructions::available() {
                    let start = descend(on, &graph, &query, 0, &mut scratch);
                    let passes: Option<Passes> = (of > 1).then_some(&passes);
                    let found =
                        search(on, &graph, &query, start, 0, expansion, passes, &mut scratch);
                    assert_eq!(found, expected, "{on:?}, {rows} rows, query {asked}");
                }
            }
        }
    }
}

#[test]
fn lists_beyond_their_room_or_the_nodes_lead_nowhere() {
    let mut random = Random::new(100, 3);
    let at = SHAPE.list(1, random.lists_before[1], 0);
    random.nodes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(random.graph().links(1, 0).len(), SHAPE.base);
    random.nodes[at + 4..at + 8].copy_from_slice(&100u32.to_le_bytes());
    let walk = || {
        let (graph, query, mut scratch) = (random.graph(), query(1), Scratch::default());
        let start = distance(&graph, &query, 1);
        search(Instructions::best(), &graph, &query, start, 0, 10, None, &mut scratch).len()
    };
    assert!(std::panic::catch_unwind(walk).is_err());
    let graph = random.graph();
    let (codes, nodes, lists_before) = (graph.codes(), &random.nodes, &random.lists_before);
    assert!(Graph::new(codes, SHAPE, &nodes[..nodes.len() - 8], lists_before, 0, 2).is_none());
    assert!(Graph::new(codes, SHAPE, nodes, &lists_before[1..], 0, 2).is_none());
    assert!(Graph::new(codes, SHAPE, nodes, lists_before, 100, 2).is_none());
}
