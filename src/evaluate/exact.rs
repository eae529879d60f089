//! Exact nearest neighbours by dot product: the reference that no index is involved in.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernel::dot;
use crate::types::Embeddings;

/// Documents scored together, so that their rows stay in the cache while queries pass.
const BLOCK: usize = 512;

/// For every query row the `k` document rows with the highest dot product, best first; equal scores by row number.
///
/// # Errors
/// Input, where the dimensions differ.
pub fn exact_search(
    queries: &Embeddings,
    documents: &Embeddings,
    k: usize,
) -> Result<Vec<Vec<(u32, f32)>>> {
    if !queries.is_empty()
        && !documents.is_empty()
        && queries.dimensions() != documents.dimensions()
    {
        return Err(Error::input(format!(
            "queries have {} dimensions and documents {}: two different towers?",
            queries.dimensions(),
            documents.dimensions()
        )));
    }
    let rows: Vec<&[f32]> = documents.rows().collect();
    let numbers: Vec<usize> = (0..queries.len()).collect();
    Ok(numbers
        .par_chunks(16)
        .flat_map_iter(|chunk| {
            let mut best: Vec<Vec<(u32, f32)>> = vec![Vec::new(); chunk.len()];
            for (number, block) in rows.chunks(BLOCK).enumerate() {
                for (at, best) in chunk.iter().zip(&mut best) {
                    let query = queries.row(*at);
                    best.extend(
                        block
                            .iter()
                            .enumerate()
                            .map(|(i, row)| ((number * BLOCK + i) as u32, dot(query, row))),
                    );
                    keep_best(best, k);
                }
            }
            for best in &mut best {
                best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            }
            best
        })
        .collect())
}

fn keep_best(best: &mut Vec<(u32, f32)>, k: usize) {
    if best.len() > k {
        if k > 0 {
            best.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        best.truncate(k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::SplitMix64;

    #[test]
    fn agrees_with_a_full_sort_in_f64() {
        let mut rng = SplitMix64::new(5);
        let mut random = |rows: usize| {
            Embeddings::from_vec(37, (0..rows * 37).map(|_| rng.normal() as f32).collect()).unwrap()
        };
        let (queries, documents) = (random(20), random(1500));
        let found = exact_search(&queries, &documents, 10).unwrap();
        for (query, found) in queries.rows().zip(&found) {
            let mut all: Vec<(u32, f64)> = documents
                .rows()
                .enumerate()
                .map(|(at, row)| {
                    let sum = query.iter().zip(row).map(|(x, y)| f64::from(*x) * f64::from(*y));
                    (at as u32, sum.sum())
                })
                .collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            let expected: Vec<u32> = all.iter().take(10).map(|(at, _)| *at).collect();
            assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), expected);
        }
        assert_eq!(exact_search(&queries, &documents, 0).unwrap()[0], []);
        assert_eq!(exact_search(&queries, &documents, 9999).unwrap()[0].len(), 1500);
    }
}
