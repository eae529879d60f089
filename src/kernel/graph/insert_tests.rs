//! Graphs built here against exact search, and what every one of them must keep to.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::tests::mix;
use super::*;
use crate::distance::distances;

/// -1..=1.
fn noise(seed: u64) -> f32 {
    (mix(seed) >> 40) as f32 / (1u64 << 23) as f32 - 1.
}

/// Unit vectors around a few centres, a share of them copies of each other, as rows of an element type.
fn rows(element: Element, rows: usize, dimensions: usize, copies: u64, seed: u64) -> Vec<Vec<u8>> {
    let row = |row: u64| {
        let row = if mix(seed ^ row) % 100 < copies { mix(row) % 7 } else { row };
        let centre = mix(seed.wrapping_add(row)) % 12;
        let values = (0..dimensions as u64)
            .map(|at| noise(centre << 32 | at) + 0.6 * noise(seed ^ row << 20 ^ at << 50));
        let values: Vec<f32> = values.collect();
        let length = values.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-9);
        encoded(element, &values.iter().map(|x| x / length).collect::<Vec<f32>>())
    };
    (0..rows as u64).map(row).collect()
}

fn encoded(element: Element, row: &[f32]) -> Vec<u8> {
    match element {
        Element::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Element::F16 => row.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        Element::Bf16 => row.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        Element::I8 => row.iter().map(|x| (x * 127.) as i8 as u8).collect(),
        Element::B1 | Element::Signs => row
            .chunks(8)
            .map(|eight| {
                let bits = eight.iter().enumerate();
                bits.fold(0, |byte, (at, x)| byte | u8::from(*x > 0.) << at)
            })
            .collect(),
    }
}

const ALL: [Element; 5] = [Element::F32, Element::F16, Element::Bf16, Element::I8, Element::B1];

fn level(slot: usize, connectivity: usize) -> usize {
    let (mut drawn, mut level) = (mix(slot as u64 ^ 0x55), 0);
    while drawn % connectivity as u64 == 0 && level < 9 {
        (drawn, level) = (drawn / connectivity as u64, level + 1);
    }
    level
}

fn built(
    on: Instructions,
    element: Element,
    dimensions: usize,
    (connectivity, expansion): (usize, usize),
    codes: &[Vec<u8>],
) -> GraphBuilder {
    let shape = Shape { head: 3, base: 2 * connectivity, upper: connectivity };
    let levels = (0..codes.len()).map(|slot| level(slot, connectivity)).sum();
    let new = GraphBuilder::new(element, dimensions, shape, expansion, codes.len(), levels);
    let mut builder = new.unwrap().with_instructions(on);
    let room = (builder.stored.nodes.capacity(), builder.stored.codes.capacity());
    for (slot, code) in codes.iter().enumerate() {
        builder.insert(b"key", code, level(slot, connectivity));
    }
    builder.finish();
    assert_eq!(room, (builder.stored.nodes.capacity(), builder.stored.codes.capacity()));
    builder
}

/// Slots that are reached from the entry in the base level.
fn reached(graph: &Graph) -> usize {
    let mut seen = BTreeSet::from([graph.entry().0]);
    let mut queue = vec![graph.entry().0];
    while let Some(slot) = queue.pop() {
        queue.extend(graph.links(slot, 0).filter(|to| seen.insert(*to)));
    }
    seen.len()
}

/// Every list: no slot twice, none its own, none that is not in the level; and every node reached.
fn check(builder: &GraphBuilder, connectivity: usize) {
    let Some(graph) = builder.graph() else { return };
    let levels: Vec<u32> = builder.levels().collect();
    assert_eq!(graph.entry().1 as u32, levels.iter().copied().max().unwrap());
    for (slot, top) in levels.iter().enumerate() {
        assert_eq!(*top as usize, level(slot, connectivity));
        for level in 0..=*top {
            let links: Vec<u32> = graph.links(slot as u32, level as usize).collect();
            let distinct: BTreeSet<u32> = links.iter().copied().collect();
            assert_eq!(distinct.len(), links.len(), "slot {slot}, level {level}: {links:?}");
            assert!(!distinct.contains(&(slot as u32)), "slot {slot} links to itself");
            assert!(
                links.iter().all(|to| levels[*to as usize] >= level),
                "slot {slot}, level {level}"
            );
        }
    }
    assert_eq!(reached(&graph), levels.len());
}

/// Share of the exact ten nearest of other vectors that a search keeping 64 finds; ties count.
fn recall(builder: &GraphBuilder, element: Element, dimensions: usize, seed: u64) -> f64 {
    let (graph, on) = (builder.graph().unwrap(), Instructions::best());
    let (mut scratch, mut query) = (Scratch::default(), Query::default());
    let slots: Vec<u32> = (0..builder.rows() as u32).collect();
    let mut exact = vec![0.; slots.len()];
    let mut hits = 0;
    let queries = rows(element, 100, dimensions, 0, seed);
    for row in &queries {
        query.set(element, dimensions, row);
        distances(on, graph.codes(), &query, &slots, &mut exact);
        let mut sorted = exact.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let start = descend(on, &graph, &query, 0, &mut scratch);
        let found = search(on, &graph, &query, start, 0, 64, None, &mut scratch);
        hits += found[..10].iter().filter(|near| near.distance() <= sorted[9]).count();
    }
    hits as f64 / (10 * queries.len()) as f64
}

#[test]
fn every_element_type_is_found_again() {
    for element in ALL {
        let codes = rows(element, 3_000, 40, 0, 7);
        let builder = built(Instructions::best(), element, 40, (16, 128), &codes);
        check(&builder, 16);
        let found = recall(&builder, element, 40, 8);
        assert!(found > 0.985, "{element:?}: {found}");
    }
}

/// Distances of whole numbers are the same wherever they are measured, and so is the graph; those of floats are where the
/// instructions are.
#[test]
fn the_same_vectors_make_the_same_graph() {
    for element in ALL {
        let codes = rows(element, 700, 33, 10, 3);
        let bytes = |on| {
            let builder = built(on, element, 33, (8, 40), &codes);
            (builder.nodes().to_vec(), builder.codes().to_vec(), builder.entry())
        };
        let first = bytes(Instructions::best());
        assert!(first == bytes(Instructions::best()), "{element:?}");
        if matches!(element, Element::I8 | Element::B1) {
            for on in Instructions::available() {
                assert!(first == bytes(on), "{element:?}, {on:?}");
            }
        }
    }
}

/// One vector near all others draws the links of all.
#[test]
fn a_hub_keeps_everybody_reachable() {
    let dimensions = 300;
    let mut codes = Vec::new();
    for slot in 0..600 {
        let mut row = vec![0f32; dimensions];
        row[slot % dimensions] = if slot < dimensions { 0.8 } else { -0.8 };
        row[(slot + 1) % dimensions] = 0.1;
        codes.push(encoded(Element::I8, &row));
    }
    codes.insert(0, encoded(Element::I8, &vec![0.05; dimensions]));
    for connectivity in [2, 3, 16] {
        let options = (connectivity, 20);
        check(&built(Instructions::best(), Element::I8, dimensions, options, &codes), connectivity);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_graph_keeps_the_rules(
        of in (0..ALL.len(), 0..250usize, 1..40usize),
        connectivity in prop_oneof![2..6usize, 16..17usize, 100..101usize],
        expansion in 1..60usize,
        copies in prop_oneof![Just(0u64), Just(50), Just(100)],
        seed in any::<u64>(),
    ) {
        let (element, count, dimensions) = (ALL[of.0], of.1, of.2);
        let codes = rows(element, count, dimensions, copies, seed);
        let options = (connectivity, expansion);
        let builder = built(Instructions::best(), element, dimensions, options, &codes);
        prop_assert_eq!(builder.rows(), count);
        check(&builder, connectivity);
    }
}
