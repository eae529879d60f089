//! An opened snapshot: mapped segments of all shards, fan-out, merge.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;

use super::ids::{IdsFile, Notes, Stored};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::index::{Calibration, IndexOptions, RowSet, ShardIndex};
use crate::snapshot::{Manifest, Segment, ShardContent, newest, read, removed};
use crate::store::Root;
use crate::types::NoteId;

/// Segments fetched at the same time.
const FETCHES: usize = 4;

/// One note found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The note.
    pub note_id: NoteId,
    /// Which of its chunks matched best; 0 where notes are not chunked.
    pub chunk: u32,
    /// Cosine similarity, higher is better; exact up to f16 rounding where the options rescore.
    pub score: f32,
    /// Its stored columns.
    pub stored: serde_json::Map<String, serde_json::Value>,
}

/// A snapshot that is open for search. Share it between threads by reference.
///
/// Everything is mapped when it opens: a later publish, rollback or gc does not change or disturb it.
pub struct Snapshot {
    manifest: Manifest,
    /// Of all shards.
    segments: Vec<Opened>,
}

/// One segment of a shard.
struct Opened {
    index: ShardIndex,
    ids: IdsFile,
    /// Rows that were not removed since.
    live: RowSet,
    /// Whether a note may have several vectors here.
    chunked: bool,
}

/// A hit before its stored columns are read.
struct Candidate {
    score: f32,
    segment: usize,
    row: usize,
    note_id: NoteId,
    chunk: u32,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("number", &self.manifest.number)
            .field("notes", &self.manifest.content.notes)
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Opens snapshot `number`, or the newest. Files of a root that is not a local folder are downloaded into `cache`
    /// with size and hash checked (what is there already is used again); those of a local root are mapped in place.
    ///
    /// # Errors
    /// NotFound where there is no such snapshot or a file is gone; Corrupt where a file is not what the manifest
    /// says or the files of a shard do not belong together.
    pub async fn open(root: &Root, number: Option<u64>, cache: &Path) -> Result<Self> {
        let manifest = match number {
            Some(number) => read(root, number).await?,
            None => newest(root).await?.ok_or_else(|| {
                Error::not_found(format!(
                    "there is no snapshot in {}; publish one with `scalingnote run`",
                    root.uri()
                ))
            })?,
        };
        let number = manifest.number;
        Self::of_manifest(root, manifest, cache)
            .await
            .context(|| format!("opening snapshot {number} in {}", root.uri()))
    }

    async fn of_manifest(root: &Root, manifest: Manifest, cache: &Path) -> Result<Self> {
        let content = &manifest.content;
        let options: IndexOptions = serde_json::from_value(content.index.options.clone())
            .or_error(ErrorKind::Corrupt, || "its index options cannot be read")?;
        let calibration: Calibration = serde_json::from_value(content.index.calibration.clone())
            .or_error(ErrorKind::Corrupt, || "its quantisation scale cannot be read")?;
        let shared = Arc::new((options, calibration));
        let dimensions = content.space.dimensions as usize;
        let opening: Vec<_> = content
            .shards
            .iter()
            .flat_map(|shard| {
                let segments = shard.segments();
                segments.into_iter().map(|segment| {
                    open_segment(root, shard, segment, cache, Arc::clone(&shared), dimensions)
                })
            })
            .collect();
        let segments = futures::stream::iter(opening).buffered(FETCHES).try_collect().await?;
        Ok(Self { manifest, segments })
    }

    /// The manifest it was opened from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The `k` notes nearest to `query` (`space.dimensions` values of any length but zero), best first, equal scores by
    /// note id. `exact` compares with every vector instead of walking the graphs. Runs on rayon's threads.
    ///
    /// # Errors
    /// Input for a query of other dimensions, non-finite or zero.
    pub fn search_vector(&self, query: &[f32], k: usize, exact: bool) -> Result<Vec<Found>> {
        self.check(query)?;
        let k = k.min(usize::try_from(self.manifest.content.notes).unwrap_or(usize::MAX));
        if k == 0 {
            return Ok(Vec::new());
        }
        let per_segment: Vec<Vec<Candidate>> = self
            .segments
            .par_iter()
            .enumerate()
            .map(|(at, segment)| segment.search(at, query, k, exact))
            .collect::<Result<_>>()?;
        let mut best: Vec<Candidate> = per_segment.into_iter().flatten().collect();
        best.sort_unstable_by(|a, b| {
            b.score.total_cmp(&a.score).then_with(|| a.note_id.cmp(&b.note_id))
        });
        // The chunks of one note may lie in several segments of its shard.
        let mut seen = HashSet::new();
        best.retain(|candidate| seen.insert(candidate.note_id.clone()));
        best.truncate(k);
        self.with_stored(best)
    }

    fn check(&self, query: &[f32]) -> Result<()> {
        let dimensions = self.manifest.content.space.dimensions as usize;
        if query.len() != dimensions {
            return Err(Error::input(format!(
                "the query vector has {} dimensions, the snapshot {dimensions}",
                query.len()
            )));
        }
        if !query.iter().all(|value| value.is_finite()) || query.iter().all(|value| *value == 0.0) {
            return Err(Error::input("the query vector is zero or not finite"));
        }
        Ok(())
    }

    /// Reads the stored columns, one pass per segment.
    fn with_stored(&self, best: Vec<Candidate>) -> Result<Vec<Found>> {
        let mut stored: Vec<Option<Stored>> = vec![None; best.len()];
        let segments: HashSet<usize> = best.iter().map(|candidate| candidate.segment).collect();
        for segment in segments {
            let (places, rows): (Vec<usize>, Vec<usize>) = best
                .iter()
                .enumerate()
                .filter(|(_, candidate)| candidate.segment == segment)
                .map(|(place, candidate)| (place, candidate.row))
                .unzip();
            let found = self.segments[segment].ids.stored(&rows)?;
            for (place, columns) in places.into_iter().zip(found) {
                stored[place] = Some(columns);
            }
        }
        let found = best.into_iter().zip(stored).map(|(candidate, stored)| Found {
            note_id: candidate.note_id,
            chunk: candidate.chunk,
            score: candidate.score,
            stored: stored.unwrap_or_default(),
        });
        Ok(found.collect())
    }
}

async fn open_segment(
    root: &Root,
    shard: &ShardContent,
    segment: Segment,
    cache: &Path,
    shared: Arc<(IndexOptions, Calibration)>,
    dimensions: usize,
) -> Result<Opened> {
    let paths = futures::try_join!(
        root.fetch(&segment.index, cache),
        root.fetch(&segment.sidecar, cache),
        root.fetch(&segment.ids, cache)
    )?;
    let removed = removed::read(root, segment.removed.as_ref()).await?;
    let (number, chunked) = (shard.shard, shard.vectors > shard.notes);
    tokio::task::spawn_blocking(move || {
        Opened::open(&segment, &paths.into(), &removed, &shared, dimensions, chunked)
            .context(|| format!("shard {number}"))
    })
    .await
    .or_error(ErrorKind::Internal, || "opening a shard")?
}

impl Opened {
    fn open(
        segment: &Segment,
        [index, sidecar, ids]: &[PathBuf; 3],
        removed: &[u64],
        (options, calibration): &(IndexOptions, Calibration),
        dimensions: usize,
        chunked: bool,
    ) -> Result<Self> {
        let index = ShardIndex::open(index, sidecar, options, calibration)?;
        let ids = IdsFile::open(ids)?;
        if index.len() as u64 != segment.vectors || ids.rows() != segment.vectors {
            return Err(Error::corrupt(format!(
                "its index has {} vectors, its ids file {}, the manifest says {}",
                index.len(),
                ids.rows(),
                segment.vectors
            )));
        }
        if !index.is_empty() && index.dimensions() != dimensions {
            return Err(Error::corrupt(format!(
                "its index has {} dimensions, the embedding space {dimensions}",
                index.dimensions()
            )));
        }
        let live = RowSet::without(index.keys(), removed)?;
        Ok(Self { index, ids, live, chunked })
    }

    /// The `k` best notes of this segment, each by its best chunk. Asks for more vectors until so many notes are found.
    fn search(&self, at: usize, query: &[f32], k: usize, exact: bool) -> Result<Vec<Candidate>> {
        let notes = self.ids.notes(self.index.keys())?;
        let mut wanted = if self.chunked { k.saturating_mul(4) } else { k };
        loop {
            wanted = wanted.min(self.live.len());
            let hits = match exact {
                true => self.index.search_exact_among(query, wanted, &self.live)?,
                false => self.index.search_among(query, wanted, &self.live)?,
            };
            let exhausted = wanted == self.live.len() || hits.len() < wanted;
            let mut seen = HashSet::new();
            let mut best = Vec::with_capacity(k);
            for hit in hits {
                let row = self.index.keys().binary_search(&hit.key).map_err(|_| {
                    Error::corrupt(format!("key {:016x} of the index has no row", hit.key))
                })?;
                if best.len() < k && seen.insert(notes.ids.value(row)) {
                    best.push(candidate(&notes, at, row, hit.score)?);
                }
            }
            if best.len() == k || exhausted {
                return Ok(best);
            }
            wanted = wanted.saturating_mul(4);
        }
    }
}

fn candidate(notes: &Notes, segment: usize, row: usize, score: f32) -> Result<Candidate> {
    let note_id: NoteId = notes.ids.value(row).parse()?;
    Ok(Candidate { score, segment, row, note_id, chunk: notes.chunks[row] })
}
