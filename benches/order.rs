//! Orders in which the slots of a graph could lie in its file, for the bench `slots`: permutations of slots, as lists of
//! old slots by new ones.
//!
//! Keys are hashes, so in key order the nodes that a search visits one after the other lie anywhere in the file.

use std::collections::VecDeque;

use scalingnote::types::Embeddings;

/// Links of every node of the base level, or their reverse: those of node n are `to[from[n]..from[n + 1]]`.
pub struct Links {
    from: Vec<u32>,
    to: Vec<u32>,
}

impl Links {
    /// Of `nodes` nodes, whose links `of` gives.
    pub fn new<I: Iterator<Item = u32>>(nodes: usize, of: impl Fn(usize) -> I) -> Self {
        let mut links = Self { from: vec![0], to: Vec::new() };
        for node in 0..nodes {
            links.to.extend(of(node));
            // A shard holds below 2^32 links.
            links.from.push(links.to.len() as u32);
        }
        links
    }

    fn nodes(&self) -> usize {
        self.from.len() - 1
    }

    fn of(&self, node: u32) -> &[u32] {
        let node = node as usize;
        &self.to[self.from[node] as usize..self.from[node + 1] as usize]
    }

    /// The nodes that link to each.
    fn reversed(&self) -> Self {
        let mut from = vec![0u32; self.nodes() + 1];
        self.to.iter().for_each(|to| from[*to as usize + 1] += 1);
        (0..self.nodes()).for_each(|node| from[node + 1] += from[node]);
        let (mut place, mut to) = (from.clone(), vec![0; self.to.len()]);
        for node in 0..self.nodes() as u32 {
            for target in self.of(node) {
                let at = &mut place[*target as usize];
                to[*at as usize] = node;
                *at += 1;
            }
        }
        Self { from, to }
    }
}

/// Breadth first from the entry, as a search could meet them.
pub fn breadth_first(links: &Links, entry: u32) -> Vec<u32> {
    walk(links.nodes(), entry, |node, next| next.extend(links.of(node)))
}

/// Reverse Cuthill-McKee: breadth first over links of either direction, nodes of few links first, and all of it turned round.
pub fn reverse_cuthill_mckee(links: &Links) -> Vec<u32> {
    let inward = links.reversed();
    let degree = |node: &u32| links.of(*node).len() + inward.of(*node).len();
    let first = (0..links.nodes() as u32).min_by_key(degree).unwrap_or(0);
    let mut order = walk(links.nodes(), first, |node, next| {
        next.extend(links.of(node).iter().chain(inward.of(node)));
        next.sort_unstable_by_key(|node| (degree(node), *node));
    });
    order.reverse();
    order
}

fn walk(nodes: usize, start: u32, next: impl Fn(u32, &mut Vec<u32>)) -> Vec<u32> {
    let (mut seen, mut order) = (vec![false; nodes], Vec::with_capacity(nodes));
    let (mut queue, mut found) = (VecDeque::new(), Vec::new());
    // Nodes that nothing leads to begin a walk of their own.
    for start in std::iter::once(start).chain(0..nodes as u32) {
        if nodes == 0 || std::mem::replace(&mut seen[start as usize], true) {
            continue;
        }
        queue.push_back(start);
        while let Some(node) = queue.pop_front() {
            order.push(node);
            found.clear();
            next(node, &mut found);
            for to in &found {
                if !std::mem::replace(&mut seen[*to as usize], true) {
                    queue.push_back(*to);
                }
            }
        }
    }
    order
}

/// Gorder (Wei and others, SIGMOD 2016): next comes the node that shares most links and neighbours with the last five.
pub fn gorder(links: &Links, entry: u32) -> Vec<u32> {
    const WINDOW: usize = 5;
    let inward = links.reversed();
    let mut scores = Scores::new(links.nodes());
    let (mut order, mut window) = (Vec::with_capacity(links.nodes()), VecDeque::new());
    let mut next = (links.nodes() > 0).then_some(entry);
    while let Some(node) = next {
        scores.take(node);
        order.push(node);
        window.push_back(node);
        let gone = (window.len() > WINDOW).then(|| window.pop_front()).flatten();
        for (node, up) in [(Some(node), true), (gone, false)] {
            let Some(node) = node else { continue };
            links.of(node).iter().for_each(|to| scores.change(*to, up));
            for from in inward.of(node) {
                scores.change(*from, up);
                links.of(*from).iter().for_each(|to| scores.change(*to, up));
            }
        }
        next = scores.best();
    }
    order
}

/// No node.
const NONE: u32 = u32::MAX;

/// The nodes that are left, in one doubly linked list for every score.
struct Scores {
    score: Vec<u32>,
    before: Vec<u32>,
    after: Vec<u32>,
    first: Vec<u32>,
    top: usize,
    taken: Vec<bool>,
}

impl Scores {
    fn new(nodes: usize) -> Self {
        let mut scores = Self {
            score: vec![0; nodes],
            before: vec![NONE; nodes],
            after: vec![NONE; nodes],
            first: vec![NONE],
            top: 0,
            taken: vec![false; nodes],
        };
        (0..nodes as u32).rev().for_each(|node| scores.link(node));
        scores
    }

    fn link(&mut self, node: u32) {
        let score = self.score[node as usize] as usize;
        if score >= self.first.len() {
            self.first.resize(score + 1, NONE);
        }
        let after = std::mem::replace(&mut self.first[score], node);
        (self.before[node as usize], self.after[node as usize]) = (NONE, after);
        if after != NONE {
            self.before[after as usize] = node;
        }
        self.top = self.top.max(score);
    }

    fn unlink(&mut self, node: u32) {
        let (before, after) = (self.before[node as usize], self.after[node as usize]);
        match before {
            NONE => self.first[self.score[node as usize] as usize] = after,
            before => self.after[before as usize] = after,
        }
        if after != NONE {
            self.before[after as usize] = before;
        }
    }

    fn change(&mut self, node: u32, up: bool) {
        if self.taken[node as usize] {
            return;
        }
        self.unlink(node);
        let score = &mut self.score[node as usize];
        *score = if up { *score + 1 } else { *score - 1 };
        self.link(node);
    }

    fn take(&mut self, node: u32) {
        self.unlink(node);
        self.taken[node as usize] = true;
    }

    fn best(&mut self) -> Option<u32> {
        while self.first[self.top] == NONE {
            self.top = self.top.checked_sub(1)?;
        }
        Some(self.first[self.top])
    }
}

/// Recursive bisection: rows are halved again and again along the line between two means, like a k-d tree that turns its axes.
pub fn bisection(vectors: &Embeddings) -> Vec<u32> {
    // A shard holds below 2^32 vectors.
    let mut rows: Vec<u32> = (0..vectors.len() as u32).collect();
    divide(vectors, &mut rows, &mut Vec::new());
    rows
}

/// Rows that are not divided further.
const LEAF: usize = 16;
/// Rows that an axis is fitted on, taken evenly.
const SAMPLE: usize = 256;
/// Steps of 2-means on that sample.
const STEPS: usize = 3;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn divide(vectors: &Embeddings, rows: &mut [u32], places: &mut Vec<(f32, u32)>) {
    if rows.len() <= LEAF {
        rows.sort_unstable();
        return;
    }
    let axis = axis(vectors, rows);
    places.clear();
    places.extend(rows.iter().map(|&row| (dot(vectors.row(row as usize), &axis), row)));
    let half = places.len() / 2;
    places.select_nth_unstable_by(half, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    for (row, place) in rows.iter_mut().zip(places.iter()) {
        *row = place.1;
    }
    let (low, high) = rows.split_at_mut(half);
    // The axis goes by the rows' order, which a selection leaves open.
    low.sort_unstable();
    high.sort_unstable();
    divide(vectors, low, places);
    divide(vectors, high, places);
}

/// The line between the means of two groups of the rows.
fn axis(vectors: &Embeddings, rows: &[u32]) -> Vec<f32> {
    let step = rows.len().div_ceil(SAMPLE);
    let sample: Vec<&[f32]> =
        rows.iter().step_by(step).map(|&row| vectors.row(row as usize)).collect();
    let farthest = sample
        .iter()
        .min_by(|a, b| dot(a, sample[0]).total_cmp(&dot(b, sample[0])))
        .unwrap_or(&sample[0]);
    let mut axis: Vec<f32> = sample[0].iter().zip(*farthest).map(|(a, b)| a - b).collect();
    for _ in 0..STEPS {
        let (mut sums, mut counts) =
            ([vec![0f32; axis.len()], vec![0f32; axis.len()]], [0usize; 2]);
        let places: Vec<f32> = sample.iter().map(|row| dot(row, &axis)).collect();
        let middle = places.iter().sum::<f32>() / places.len() as f32;
        for (row, place) in sample.iter().zip(places) {
            let group = usize::from(place < middle);
            counts[group] += 1;
            sums[group].iter_mut().zip(*row).for_each(|(sum, x)| *sum += x);
        }
        if counts.contains(&0) {
            break;
        }
        let mean = |group: usize, at: usize| sums[group][at] / counts[group] as f32;
        axis.iter_mut().enumerate().for_each(|(at, x)| *x = mean(0, at) - mean(1, at));
    }
    axis
}
