//! One open segment of a shard: its index, its ids and which of its rows count.

use std::collections::HashSet;
use std::sync::Arc;

use super::fetch::Files;
use super::ids::{IdsFile, Notes};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::index::{Calibration, IndexOptions, RowSet, ShardIndex, check_canaries};
use crate::snapshot::{Segment, removed};
use crate::store::Root;
use crate::types::{NoteId, NoteKey};

/// Keys that collide are probed further; nobody has seen a second probe.
const PROBES: u32 = 8;

/// One segment of a shard.
pub(super) struct Opened {
    /// Number of its shard.
    pub shard: u32,
    pub content: Segment,
    /// Two snapshots share it where its files are the same, and so the ids: from day to day more rows are removed from
    /// a base and stored columns change, the index stays.
    pub index: Arc<ShardIndex>,
    pub ids: Arc<IdsFile>,
    /// Rows that were not removed since.
    pub live: RowSet,
    /// Whether a note may have several vectors here.
    pub chunked: bool,
}

/// A hit before its stored columns are read.
pub(super) struct Candidate {
    pub score: f32,
    pub segment: usize,
    pub row: usize,
    pub note_id: NoteId,
    pub chunk: u32,
}

/// A segment to open.
pub(super) struct Wanted {
    pub shard: u32,
    pub chunked: bool,
    pub segment: Segment,
}

/// Files of a segment that are open already.
#[derive(Default)]
pub(super) struct OpenFiles {
    pub index: Option<Arc<ShardIndex>>,
    pub ids: Option<Arc<IdsFile>>,
}

pub(super) async fn open_segment(
    root: &Root,
    wanted: Wanted,
    files: &Files<'_>,
    open: OpenFiles,
    shared: Arc<(IndexOptions, Calibration)>,
    dimensions: usize,
) -> Result<Opened> {
    let segment = &wanted.segment;
    let index = async {
        match open.index.is_some() {
            true => Ok(None),
            false => {
                let [index, sidecar] = [&segment.index, &segment.sidecar];
                futures::try_join!(files.fetch(root, index), files.fetch(root, sidecar)).map(Some)
            }
        }
    };
    let ids = async {
        match open.ids.is_some() {
            true => Ok(None),
            false => files.fetch(root, &segment.ids).await.map(Some),
        }
    };
    // Removed keys are few, and always hashed.
    let removed = removed::read(root, segment.removed.as_ref());
    let (index_paths, ids_path, removed) = futures::try_join!(index, ids, removed)?;
    let opening = move || {
        let index = match (open.index, index_paths) {
            (Some(open), _) => open,
            (None, Some((index, sidecar))) => {
                Arc::new(ShardIndex::open(&index, &sidecar, &shared.0, &shared.1)?)
            }
            (None, None) => return Err(Error::internal("an index that was not fetched")),
        };
        let ids = match (open.ids, ids_path) {
            (Some(open), _) => open,
            (None, Some(ids)) => Arc::new(IdsFile::open(&ids)?),
            (None, None) => return Err(Error::internal("an ids file that was not fetched")),
        };
        Opened::of(wanted, index, ids, &removed, dimensions)
    };
    tokio::task::spawn_blocking(opening)
        .await
        .or_error(ErrorKind::Internal, || "opening a shard")?
}

impl Opened {
    /// Puts a segment together; its files must belong together.
    fn of(
        wanted: Wanted,
        index: Arc<ShardIndex>,
        ids: Arc<IdsFile>,
        removed: &[u64],
        dimensions: usize,
    ) -> Result<Self> {
        let Wanted { shard, chunked, segment: content } = wanted;
        let wrong = |what: String| Err(Error::corrupt(what).context(format!("shard {shard}")));
        if index.len() as u64 != content.vectors || ids.rows() != content.vectors {
            return wrong(format!(
                "index {} has {} vectors, ids file {} {}, the manifest says {}",
                content.index.path,
                index.len(),
                content.ids.path,
                ids.rows(),
                content.vectors
            ));
        }
        if !index.is_empty() && index.dimensions() != dimensions {
            return wrong(format!(
                "index {} has {} dimensions, the embedding space {dimensions}",
                content.index.path,
                index.dimensions()
            ));
        }
        let live = RowSet::without(index.keys(), removed)?;
        Ok(Self { shard, content, index, ids, live, chunked })
    }

    /// Asks the recorded canaries; the notes behind their keys must be those that make these keys.
    pub fn check(&self) -> Result<usize> {
        let notes = self.ids.notes(self.index.keys())?;
        let canaries = &self.content.canaries;
        check_canaries(&self.index, canaries)?;
        for key in canaries.iter().flat_map(|canary| &canary.hits).map(|hit| hit.key) {
            let Ok(row) = self.index.keys().binary_search(&key.0) else { continue };
            let note: NoteId = notes.ids.value(row).parse()?;
            let makes = |probe| NoteKey::derive(&note, notes.chunks[row], probe).0 == key.0;
            if !(0..PROBES).any(makes) {
                return Err(Error::corrupt(format!(
                    "ids file {} says that key {key} is note {note}, which has another key",
                    self.content.ids.path
                )));
            }
        }
        Ok(canaries.len())
    }

    /// Whether a note has a row here that counts.
    pub fn holds(&self, note: &NoteId) -> Result<bool> {
        let notes = self.ids.notes(self.index.keys())?;
        let id = note.to_string();
        let is_at = |probe| {
            let key = NoteKey::derive(note, 0, probe).0;
            let row = self.index.keys().binary_search(&key);
            row.is_ok_and(|row| self.live.contains(row) && notes.ids.value(row) == id)
        };
        Ok((0..PROBES).any(is_at))
    }

    /// The `k` best notes of this segment, each by its best chunk. Asks for more vectors until this many notes are
    /// found.
    pub fn search(
        &self,
        at: usize,
        query: &[f32],
        k: usize,
        exact: bool,
        rows: &RowSet,
    ) -> Result<Vec<Candidate>> {
        let notes = self.ids.notes(self.index.keys())?;
        let most = rows.len();
        let mut wanted = if self.chunked { k.saturating_mul(4) } else { k };
        loop {
            wanted = wanted.min(most);
            let hits = match exact {
                true => self.index.search_exact_among(query, wanted, rows)?,
                false => self.index.search_among(query, wanted, rows)?,
            };
            let exhausted = wanted == most || hits.len() < wanted;
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
