//! An order in which vectors could be inserted: near ones one after the other. Measured by `bench-index`'s `--orders`; building
//! goes in key order, because this one cost recall (benches/README.md).
//!
//! Keys are hashes, so in key order every insertion walks another part of the graph, and near vectors lie far apart in
//! the file. Here the rows are halved again and again along the line between two means, like a k-d tree that turns its
//! axes. A sample goes first, so that the graph leads everywhere before it grows dense anywhere: clusters that are far
//! apart would otherwise meet in a few late links only. benches/README.md has what it wins.

use super::rows::dot;
use crate::error::Result;
use crate::types::{Cancel, Embeddings};

/// Every so many rows one is inserted ahead of the rest.
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
///
/// # Errors
/// Cancelled.
pub fn insertion_order(vectors: &Embeddings, cancel: &Cancel) -> Result<Vec<u32>> {
    // A shard holds below 2^32 vectors.
    let mut rows: Vec<u32> = (0..vectors.len() as u32).collect();
    divide(vectors, &mut rows, &mut Vec::new(), cancel)?;
    let is_ahead = |row: &u32| row.is_multiple_of(AHEAD);
    let ahead = (0..vectors.len() as u32).filter(is_ahead);
    Ok(ahead.chain(rows.iter().copied().filter(|row| !is_ahead(row))).collect())
}

fn divide(
    vectors: &Embeddings,
    rows: &mut [u32],
    places: &mut Vec<(f32, u32)>,
    cancel: &Cancel,
) -> Result<()> {
    if rows.len() <= LEAF {
        rows.sort_unstable();
        return Ok(());
    }
    cancel.check()?;
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
    divide(vectors, low, places, cancel)?;
    divide(vectors, high, places, cancel)
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

#[cfg(test)]
mod tests {
    use super::super::recall::mix;
    use super::*;

    fn noise(seed: u64) -> f32 {
        (mix(seed) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }

    #[test]
    fn rows_of_a_cluster_follow_each_other() {
        let (clusters, dimensions, count) = (16, 24, 16_000);
        let data: Vec<f32> = (0..count * dimensions)
            .map(|at| {
                let cluster = mix((at / dimensions) as u64) % clusters;
                let centre = noise(cluster * 1_000 + (at % dimensions) as u64 + 1);
                centre + 0.1 * noise(1_000_000 + at as u64)
            })
            .collect();
        let vectors = Embeddings::from_vec(dimensions, data).unwrap();
        let order = insertion_order(&vectors, &Cancel::new()).unwrap();
        let changes = order
            .windows(2)
            .filter(|pair| mix(u64::from(pair[0])) % clusters != mix(u64::from(pair[1])) % clusters)
            .count();
        // In the order of rows 15 of 16 neighbours are of another cluster.
        assert!(changes < count / 4, "{changes} of {count}");
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(at, row)| at == *row as usize));
        assert_eq!(insertion_order(&vectors, &Cancel::new()).unwrap(), order);
    }

    #[test]
    fn equal_and_overflowing_rows_are_ordered_too() {
        for value in [0.0, 1.0, f32::MAX] {
            let vectors = Embeddings::from_vec(4, vec![value; 4 * 3_000]).unwrap();
            let mut order = insertion_order(&vectors, &Cancel::new()).unwrap();
            order.sort_unstable();
            order.dedup();
            assert_eq!(order.len(), 3_000, "{value}");
        }
        assert!(insertion_order(&Embeddings::default(), &Cancel::new()).unwrap().is_empty());
        let stopped = Cancel::new();
        stopped.cancel();
        let many = Embeddings::from_vec(1, vec![1.0; 3_000]).unwrap();
        assert!(insertion_order(&many, &stopped).is_err());
    }
}
