//! An order in which vectors could be inserted, for `--orders`: near ones one after the other. Building goes in key
//! order, because this one cost recall (benches/README.md).
//!
//! Keys are hashes, so in key order every insertion walks another part of the graph, and near vectors lie far apart in
//! the file. Here the rows are halved again and again along the line between two means, like a k-d tree that turns its
//! axes. A sample goes first, so that the graph leads everywhere before it grows dense anywhere: clusters that are far
//! apart would otherwise meet in a few late links only. The history of benches/README.md has what it wins.

use scalingnote::types::Embeddings;

/// One row in this many is inserted ahead of the rest.
const AHEAD: u32 = 32;
/// Rows that are not divided further: their graph fits into a second-level cache.
const LEAF: usize = 512;
/// Rows that an axis is fitted on, taken evenly.
const SAMPLE: usize = 256;
/// Steps of 2-means on that sample.
const STEPS: usize = 3;

/// Every row number of `vectors` once: every 32nd as it comes, then the others, near rows near each other. A function
/// of the vectors alone.
///
/// Rows should come in no order (that of hashed keys is none), and be finite and of similar length; others cost
/// locality, nothing else.
pub fn insertion_order(vectors: &Embeddings) -> Vec<u32> {
    // A shard holds below 2^32 vectors.
    let mut rows: Vec<u32> = (0..vectors.len() as u32).collect();
    divide(vectors, &mut rows, &mut Vec::new());
    let is_ahead = |row: &u32| row.is_multiple_of(AHEAD);
    let ahead = (0..vectors.len() as u32).filter(is_ahead);
    ahead.chain(rows.iter().copied().filter(|row| !is_ahead(row))).collect()
}

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
