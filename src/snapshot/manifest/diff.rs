//! What changed between two snapshots: from the manifests alone, and note by note from the ids files.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::format::{Content, Manifest, SOURCE_TYPES, Segment, ShardContent};
use super::query_tower::QueryTower;
use super::removed;
use crate::error::{Result, ResultExt};
use crate::snapshot::ids;
use crate::store::{FileRef, Root};
use crate::types::{Canary, Digest256, Hasher256};

/// What two manifests say about their difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Number of the first snapshot.
    pub from: u64,
    /// Number of the second.
    pub to: u64,
    /// Whether both serve the very same content.
    pub same_content: bool,
    /// Notes in the first and in the second.
    pub notes: [u64; 2],
    /// Vectors in the first and in the second.
    pub vectors: [u64; 2],
    /// Shard counts of both.
    pub shard_counts: [u32; 2],
    /// Shards whose index differs (every shard, where the counts differ).
    pub indexes_changed: Vec<u32>,
    /// Shards whose ids or stored columns differ.
    pub ids_changed: Vec<u32>,
    /// Shards that record another corpus, or none, as what they were made from.
    pub sources_changed: Vec<u32>,
    /// Shards of both that record the whole corpus as what they were made from. The last to change the others was a delta
    /// (`corpus.mode = "delta"`), or a purge.
    pub read_in_full: [u32; 2],
    /// Shards whose index is the same, with other canary queries.
    pub canaries_changed: Vec<u32>,
    /// Fields of the embedding space that differ; none means the spaces are equal.
    pub space_changed: Vec<String>,
    /// Fields of the index options that differ.
    pub index_options_changed: Vec<String>,
    /// Whether the quantisation scale was refitted.
    pub calibration_changed: bool,
    /// Stored columns that are new.
    pub columns_added: Vec<String>,
    /// Stored columns that are gone.
    pub columns_removed: Vec<String>,
    /// Whether both have the same stored columns, in another order.
    pub columns_reordered: bool,
    /// Query towers (fingerprints) that were admitted.
    pub towers_added: Vec<Digest256>,
    /// Query towers that are no longer admitted.
    pub towers_removed: Vec<Digest256>,
    /// Query towers that both admit, of which they record other things: where the files are, how it was adapted.
    pub towers_changed: Vec<Digest256>,
    /// Whether the corpus was selected by another SQL, where both record it.
    pub sql_changed: bool,
    /// Whether other types of the corpus are recorded (`corpus.types = "exact"`).
    pub types_changed: bool,
    /// Embedding parts that are new, and their bytes.
    pub parts_added: (usize, u64),
    /// Embedding parts that are gone, and their bytes.
    pub parts_removed: (usize, u64),
    /// Bytes of all files of both.
    pub bytes: [u64; 2],
}

/// Compares two manifests; reads nothing.
pub fn diff(from: &Manifest, to: &Manifest) -> Diff {
    let (a, b) = (&from.content, &to.content);
    let same_count = a.shard_count == b.shard_count;
    let shards = |differs: &dyn Fn(&ShardContent, &ShardContent) -> bool| -> Vec<u32> {
        if !same_count {
            return (0..b.shard_count).collect();
        }
        let pairs = a.shards.iter().zip(&b.shards);
        pairs.filter(|(a, b)| differs(a, b)).map(|(_, b)| b.shard).collect()
    };
    // Everything that decides which vectors count, and everything that decides what is known about them.
    let indexes = |shard: &ShardContent| {
        [live(shard, |segment| segment.index.sha256), live(shard, |segment| segment.sidecar.sha256)]
    };
    let canaries = |shard: &ShardContent| -> Vec<Vec<Canary>> {
        shard.segments().into_iter().map(|segment| segment.canaries).collect()
    };
    let in_full = |content: &Content| {
        content.shards.iter().filter(|shard| shard.source.is_some()).count() as u32
    };
    let towers = |from: &[QueryTower], to: &[QueryTower]| -> Vec<Digest256> {
        let known: BTreeSet<_> = from.iter().map(|tower| tower.fingerprint).collect();
        to.iter().map(|tower| tower.fingerprint).filter(|f| !known.contains(f)).collect()
    };
    let columns = |from: &[String], to: &[String]| -> Vec<String> {
        to.iter().filter(|name| !from.contains(name)).cloned().collect()
    };
    let parts = |from: &[FileRef], to: &[FileRef]| -> (usize, u64) {
        let known: BTreeSet<_> = from.iter().map(|part| &part.path).collect();
        let new: Vec<_> = to.iter().filter(|part| !known.contains(&part.path)).collect();
        (new.len(), new.iter().map(|part| part.size).sum())
    };
    let columns_added = columns(&a.stored_columns, &b.stored_columns);
    let columns_removed = columns(&b.stored_columns, &a.stored_columns);
    let same_columns = columns_added.is_empty() && columns_removed.is_empty();
    let is_other = |tower: &&QueryTower| {
        let same = |old: &&QueryTower| old.fingerprint == tower.fingerprint;
        a.query_towers.iter().find(same).is_some_and(|old| old != *tower)
    };
    let types = |manifest: &Manifest| manifest.provenance.measured.get(SOURCE_TYPES).cloned();
    Diff {
        from: from.number,
        to: to.number,
        same_content: from.content_hash == to.content_hash,
        notes: [a.notes, b.notes],
        vectors: [a.vectors, b.vectors],
        shard_counts: [a.shard_count, b.shard_count],
        indexes_changed: shards(&|a, b| indexes(a) != indexes(b)),
        ids_changed: shards(&|a, b| ids_of(a) != ids_of(b)),
        sources_changed: shards(&|a, b| a.source != b.source),
        read_in_full: [in_full(a), in_full(b)],
        canaries_changed: shards(&|a, b| indexes(a) == indexes(b) && canaries(a) != canaries(b)),
        space_changed: changed_fields(
            &serde_json::to_value(&a.space).unwrap_or_default(),
            &serde_json::to_value(&b.space).unwrap_or_default(),
        ),
        index_options_changed: changed_fields(&a.index.options, &b.index.options),
        calibration_changed: a.index.calibration != b.index.calibration,
        columns_reordered: same_columns && a.stored_columns != b.stored_columns,
        columns_added,
        columns_removed,
        towers_added: towers(&a.query_towers, &b.query_towers),
        towers_removed: towers(&b.query_towers, &a.query_towers),
        towers_changed: b.query_towers.iter().filter(is_other).map(|it| it.fingerprint).collect(),
        sql_changed: from.provenance.sql.zip(to.provenance.sql).is_some_and(|(a, b)| a != b),
        types_changed: types(from) != types(to),
        parts_added: parts(&a.parts, &b.parts),
        parts_removed: parts(&b.parts, &a.parts),
        bytes: [a, b].map(|content| content.files().map(|file| file.size).sum()),
    }
}

/// What names the rows of a shard: its ids files and the keys removed from them.
fn ids_of(shard: &ShardContent) -> Vec<(Digest256, Option<Digest256>)> {
    if shard.index.is_none() {
        return vec![(shard.ids.sha256, None)];
    }
    live(shard, |segment| segment.ids.sha256)
}

/// A file of every segment, and the keys removed from it.
fn live(
    shard: &ShardContent,
    file: fn(&Segment) -> Digest256,
) -> Vec<(Digest256, Option<Digest256>)> {
    let removed = |s: &Segment| s.removed.as_ref().map(|removed| removed.file.sha256);
    shard.segments().iter().map(|s| (file(s), removed(s))).collect()
}

fn changed_fields(a: &serde_json::Value, b: &serde_json::Value) -> Vec<String> {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return if a == b { Vec::new() } else { vec!["(all)".to_owned()] };
    };
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

/// Notes that differ between two snapshots, by id and text hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NoteDiff {
    /// Notes only in the second.
    pub added: u64,
    /// Notes only in the first.
    pub removed: u64,
    /// Notes in both with other text (or other chunks).
    pub changed: u64,
    /// Notes with the same text, in shards that were compared at all.
    pub unchanged: u64,
    /// Some added notes (tagged ids), in no particular order of the corpus.
    pub added_ids: Vec<String>,
    /// Some removed notes.
    pub removed_ids: Vec<String>,
    /// Some changed notes.
    pub changed_ids: Vec<String>,
}

/// Compares the ids files of the shards that differ (of all, where the shard counts differ) and gives counts with up to
/// `samples` note ids of each sort. Memory: the notes of one shard; of the corpus, where the shard counts differ.
pub async fn diff_ids(
    root: &Root,
    from: &Manifest,
    to: &Manifest,
    samples: usize,
) -> Result<NoteDiff> {
    let mut result = NoteDiff::default();
    let (a, b) = (&from.content, &to.content);
    if a.shard_count == b.shard_count {
        for (a, b) in a.shards.iter().zip(&b.shards) {
            if ids_of(a) != ids_of(b) {
                let old = notes(root, [a]).await?;
                compare(old, notes(root, [b]).await?, samples, &mut result);
            }
        }
    } else {
        let old = notes(root, &a.shards).await?;
        let new = notes(root, &b.shards).await?;
        compare(old, new, samples, &mut result);
    }
    for ids in [&mut result.added_ids, &mut result.removed_ids, &mut result.changed_ids] {
        ids.sort_unstable();
    }
    Ok(result)
}

/// Per note the sum of its chunks' digests, which does not depend on the order of rows.
async fn notes<'a>(
    root: &Root,
    shards: impl IntoIterator<Item = &'a ShardContent>,
) -> Result<HashMap<String, u128>> {
    let mut found = HashMap::new();
    for segment in shards.into_iter().flat_map(ShardContent::segments) {
        let removed = removed::read(root, segment.removed.as_ref()).await?;
        let file = &segment.ids;
        let columns = ["key", "note_id", "chunk", "text_hash"];
        for batch in ids::read(root, file, &columns).await? {
            let batch = batch?;
            let read = || -> Result<_> {
                let (keys, notes) = (ids::keys(&batch)?, ids::notes(&batch)?);
                Ok((keys, notes, ids::chunks(&batch)?, ids::text_hashes(&batch)?))
            };
            let (keys, notes, chunks, hashes) =
                read().context(|| format!("reading {}", file.path))?;
            for (row, chunk) in chunks.iter().enumerate() {
                if removed.binary_search(&keys[row]).is_ok() {
                    continue;
                }
                let mut hasher = Hasher256::new();
                hasher.field(chunk.to_le_bytes()).field(hashes[row]);
                let digest = hasher.finish().0;
                let mut low = [0; 16];
                low.copy_from_slice(&digest[..16]);
                let sum: &mut u128 = match found.get_mut(notes.value(row)) {
                    Some(sum) => sum,
                    None => found.entry(notes.value(row).to_owned()).or_default(),
                };
                *sum = sum.wrapping_add(u128::from_le_bytes(low));
            }
        }
    }
    Ok(found)
}

fn compare(
    mut old: HashMap<String, u128>,
    new: HashMap<String, u128>,
    samples: usize,
    result: &mut NoteDiff,
) {
    let keep = |ids: &mut Vec<String>, id: String| {
        if ids.len() < samples {
            ids.push(id);
        }
    };
    for (id, text) in new {
        match old.remove(&id) {
            None => {
                result.added += 1;
                keep(&mut result.added_ids, id);
            }
            Some(before) if before != text => {
                result.changed += 1;
                keep(&mut result.changed_ids, id);
            }
            Some(_) => result.unchanged += 1,
        }
    }
    for (id, _) in old {
        result.removed += 1;
        keep(&mut result.removed_ids, id);
    }
}
