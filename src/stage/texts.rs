//! Vectors of texts that an embedding space already holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::located;
use crate::embedding;
use crate::error::{Error, Result};
use crate::store::Root;
use crate::types::{Embeddings, SpaceId, TextHash};

/// Vectors `[texts, dimensions]` of rendered texts by their hashes, in order, from the parts of `space`.
///
/// # Errors
/// NotFound where a text was never encoded in the space; Corrupt about parts and their receipts.
pub async fn vectors_of(
    root: &Root,
    space: &SpaceId,
    dimensions: usize,
    hashes: &[TextHash],
) -> Result<Embeddings> {
    let parts = embedding::list_parts(root, space, None).await?;
    let wanted: HashSet<TextHash> = hashes.iter().copied().collect();
    let places = located::find_in_parts(root, &parts, &wanted).await?;
    let mut by_part: BTreeMap<&str, Vec<TextHash>> = BTreeMap::new();
    for (hash, place) in &places {
        by_part.entry(&place.part).or_default().push(*hash);
    }
    let mut vectors: HashMap<TextHash, Vec<f32>> = HashMap::with_capacity(places.len());
    for (part, members) in by_part {
        let rows: Vec<u32> = members.iter().map(|hash| places[hash].row).collect();
        let found = embedding::read_vectors(root, part, &rows).await?;
        for (hash, row) in members.into_iter().zip(found.rows()) {
            vectors.insert(hash, row.to_vec());
        }
    }
    let mut all = Embeddings::with_capacity(dimensions, hashes.len());
    for hash in hashes {
        let vector = vectors.get(hash).filter(|vector| vector.len() == dimensions);
        all.push(vector.ok_or_else(|| {
            Error::not_found(format!(
                "text {} has no vector in space {space}: it could not be encoded",
                hash.short()
            ))
        })?);
    }
    Ok(all)
}
