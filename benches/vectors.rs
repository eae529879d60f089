//! Real vectors to measure indexes on, in texmex layout, as a shard holds them: by hashed keys.

#[path = "clock.rs"]
mod clock;

use std::path::Path;

use scalingnote::types::Embeddings;

pub use self::clock::{Failure, cpu_seconds, mix};

/// Vectors, queries and what they should find.
pub struct Data {
    /// Of the rows of `base`, ascending.
    pub keys: Vec<u64>,
    /// The vectors.
    pub base: Embeddings,
    /// The queries.
    pub queries: Embeddings,
    /// Per query the keys of the ten nearest.
    pub truth: Vec<Vec<u64>>,
}

impl Data {
    /// Of a folder with `base.fvecs`, `query.fvecs` and `groundtruth.ivecs`; the first `rows` vectors.
    pub fn load(folder: &Path, rows: usize) -> Result<Self, Failure> {
        let base = fvecs(&folder.join("base.fvecs"), rows)?;
        let queries = fvecs(&folder.join("query.fvecs"), usize::MAX)?;
        let mut order: Vec<usize> = (0..base.len()).collect();
        order.sort_unstable_by_key(|row| mix(*row as u64));
        let keys = order.iter().map(|row| mix(*row as u64)).collect();
        let mut sorted = Embeddings::with_capacity(base.dimensions(), base.len());
        order.iter().for_each(|row| sorted.push(base.row(*row)));
        let (width, truth) = texmex(&folder.join("groundtruth.ivecs"), usize::MAX)?;
        let truth = truth.chunks_exact(width).map(|row| {
            let rows = row[..10].iter().map(|row| i32::from_le_bytes(*row) as usize);
            rows.filter(|row| *row < base.len()).map(|row| mix(row as u64)).collect()
        });
        let truth = truth.collect();
        Ok(Self { keys, base: sorted, queries, truth })
    }

    /// The share of the ten nearest, as far as they are there, that were found.
    pub fn recall(&self, found: &[Vec<u64>]) -> f64 {
        let hits = found
            .iter()
            .zip(&self.truth)
            .map(|(found, truth)| found.iter().filter(|key| truth.contains(key)).count());
        let wanted: usize = self.truth.iter().map(Vec::len).sum();
        hits.sum::<usize>() as f64 / wanted as f64
    }
}

fn texmex(path: &Path, most: usize) -> Result<(usize, Vec<[u8; 4]>), Failure> {
    let bytes = std::fs::read(path)?;
    let width = i32::from_le_bytes(bytes[..4].try_into()?) as usize;
    let rows = bytes.chunks_exact(4 * (width + 1)).take(most);
    let values = rows.flat_map(|row| row[4..].chunks_exact(4).map(|x| [x[0], x[1], x[2], x[3]]));
    Ok((width, values.collect()))
}

fn fvecs(path: &Path, most: usize) -> Result<Embeddings, Failure> {
    let (width, values) = texmex(path, most)?;
    Ok(Embeddings::from_vec(width, values.into_iter().map(f32::from_le_bytes).collect())?)
}
