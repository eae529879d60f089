//! Vectors that an embedding space already holds: where they are, and gathering them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::ids::Place;
use crate::embedding::{self, PartReceipt};
use crate::error::{Error, Result};
use crate::store::Root;
use crate::types::{Embeddings, SpaceId, TextHash};

/// Text hash -> place of its vector.
pub(crate) type Places = HashMap<TextHash, Place>;

/// How many parts are read at the same time.
const CONCURRENT_PARTS: usize = 8;

/// Finds which of `wanted` are in `parts`. Where several parts hold a text, the first part wins, so the
/// answer does not depend on timing. Reads only the hash columns; memory is bounded by what is wanted.
pub(crate) async fn find_in_parts(
    root: &Root,
    parts: &[PartReceipt],
    wanted: &HashSet<TextHash>,
) -> Result<Places> {
    let mut found = Places::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let mut columns = stream::iter(parts.to_vec())
        .map(|part| async move { places_in(root, &part).await })
        .buffered(CONCURRENT_PARTS);
    while let Some(places) = columns.try_next().await? {
        for (hash, place) in places.filter(|(hash, _)| wanted.contains(hash)) {
            found.entry(hash).or_insert(place);
        }
    }
    Ok(found)
}

/// The texts of a part, in row order, each with the place of its vector.
pub(crate) async fn places_in(
    root: &Root,
    part: &PartReceipt,
) -> Result<impl Iterator<Item = (TextHash, Place)> + use<>> {
    let name: Arc<str> = Arc::from(part.file.path.as_str());
    let hashes = embedding::read_text_hashes(root, part).await?;
    let place = move |row: usize| Place { part: Arc::clone(&name), row: row as u32 };
    Ok(hashes.into_iter().enumerate().map(move |(row, hash)| (hash, place(row))))
}

/// The vectors at these places, in order, read part by part.
pub(crate) async fn gather<'a>(
    root: &Root,
    dimensions: usize,
    places: impl IntoIterator<Item = &'a Place>,
) -> Result<Embeddings> {
    // For each part, the rows and where their vectors go.
    let mut by_part: BTreeMap<&str, (Vec<u32>, Vec<usize>)> = BTreeMap::new();
    let mut count = 0;
    for (at, place) in places.into_iter().enumerate() {
        let (rows, to) = by_part.entry(&place.part).or_default();
        rows.push(place.row);
        to.push(at);
        count = at + 1;
    }
    let mut data = Vec::new();
    for (part, (rows, to)) in by_part {
        let vectors = embedding::read_vectors(root, part, &rows).await?;
        if vectors.dimensions() != dimensions {
            return Err(Error::corrupt(format!(
                "part {part} holds {} dimensions, the space has {dimensions}",
                vectors.dimensions()
            )));
        }
        // Only now is it known that a part is so wide: the number alone allocates nothing.
        data.resize(count * dimensions, 0.0);
        for (at, vector) in to.into_iter().zip(vectors.rows()) {
            data[at * dimensions..(at + 1) * dimensions].copy_from_slice(vector);
        }
    }
    Embeddings::from_vec(dimensions, data)
}

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
    let found = find_in_parts(root, &parts, &wanted).await?;
    let place = |hash: &TextHash| {
        found.get(hash).ok_or_else(|| {
            Error::not_found(format!(
                "text {} has no vector in space {space}: it could not be encoded",
                hash.short()
            ))
        })
    };
    let places: Vec<&Place> = hashes.iter().map(place).collect::<Result<_>>()?;
    gather(root, dimensions, places).await
}
