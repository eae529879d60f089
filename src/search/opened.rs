//! An opened snapshot: mapped segments of all shards, fan-out, merge.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::Schema;
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;

use super::cache::sweep;
use super::fetch::Files;
use super::ids::Stored;
use super::passing::Passing;
use super::segment::{Candidate, OpenFiles, Opened, Wanted, open_segment};
use super::threads::on_own_threads;
use crate::corpus::RowFilter;
use crate::error::{Error, ErrorKind, Result, ResultExt, unreadable};
use crate::index::{Calibration, IndexOptions};
use crate::snapshot::{Content, Manifest, Segment, newest, read};
use crate::store::Root;
use crate::types::{Cancel, NoteId, shard_of};

/// Segments fetched at the same time.
const FETCHES: usize = 4;

/// Bytes of a hit in an answer beside its note's ID and stored columns.
const FRAME: usize = 80;

/// Asks for this many bytes of an answer.
pub type Take<'a> = &'a dyn Fn(usize) -> Result<()>;

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
/// Everything is mapped when it opens: a later publish, rollback or gc does not change or disturb it. What does, where
/// files of a local root are mapped in place, is in `fetch.rs`.
pub struct Snapshot {
    manifest: Manifest,
    /// The segments of all shards.
    segments: Vec<Opened>,
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
    /// Opens snapshot `number`, or the newest. Every file is hashed. Those of a root that is not a local folder are
    /// downloaded into `cache` (what is there already is used again, what was not for a week is removed); those of a local root are mapped where they are,
    /// and must not be changed by anybody while the snapshot is open.
    ///
    /// # Errors
    /// NotFound where there is no such snapshot or a file is gone; Corrupt where a file is not what the manifest
    /// says or the files of a shard do not belong together.
    pub async fn open(root: &Root, number: Option<u64>, cache: &Path) -> Result<Self> {
        if root.local_folder().is_none() {
            let cache = cache.to_owned();
            // What is left behind is swept the next time.
            let _ = tokio::task::spawn_blocking(move || sweep(&cache)).await;
        }
        let manifest = match number {
            Some(number) => read(root, number).await?,
            None => newest(root).await?.ok_or_else(|| {
                Error::not_found(format!(
                    "there is no snapshot in {}; publish one with `scalingnote run`",
                    root.uri()
                ))
            })?,
        };
        Self::of(root, manifest, cache, None).await
    }

    /// [`Snapshot::open`] by the manifest, which need not be committed: what is about to be published is searched like
    /// this first ([`crate::snapshot::proposed`]). Files that are open in `before` are taken over.
    ///
    /// # Errors
    /// As there.
    pub async fn of(
        root: &Root,
        manifest: Manifest,
        cache: &Path,
        before: Option<&Snapshot>,
    ) -> Result<Self> {
        let number = manifest.number;
        Self::open_beside(root, manifest, &Files { cache, in_place: true }, before)
            .await
            .context(|| format!("opening snapshot {number} in {}", root.uri()))
    }

    /// Opens the snapshot of a manifest; files that are open in `before` are taken over.
    pub(super) async fn open_beside(
        root: &Root,
        manifest: Manifest,
        files: &Files<'_>,
        before: Option<&Snapshot>,
    ) -> Result<Self> {
        let content = &manifest.content;
        let options: IndexOptions = serde_json::from_value(content.index.options.clone())
            .map_err(|e| unreadable(e, "its index", "its index options cannot be read"))?;
        let calibration: Calibration = serde_json::from_value(content.index.calibration.clone())
            .or_error(ErrorKind::Corrupt, || "its quantisation scale cannot be read")?;
        let shared = Arc::new((options, calibration));
        let dimensions = content.space.dimensions as usize;
        let mut opening = Vec::new();
        for shard in content.shards.iter().filter(|shard| shard.vectors > 0) {
            let segments = shard.segments();
            if segments.is_empty() {
                return Err(Error::corrupt(format!(
                    "shard {} has vectors and no index",
                    shard.shard
                )));
            }
            for segment in segments {
                let wanted =
                    Wanted { shard: shard.shard, chunked: shard.vectors > shard.notes, segment };
                let open = before.map(|before| before.files_like(content, &wanted.segment));
                opening.push(open_segment(
                    root,
                    wanted,
                    files,
                    open.unwrap_or_default(),
                    Arc::clone(&shared),
                    dimensions,
                ));
            }
        }
        let segments = futures::stream::iter(opening).buffered(FETCHES).try_collect().await?;
        Ok(Self { manifest, segments })
    }

    /// The keys of the files that are open, all of which were hashed by that.
    pub fn files(&self) -> HashSet<String> {
        let of_segment = |open: &Opened| {
            let Segment { index, sidecar, ids, removed, .. } = &open.content;
            let removed = removed.as_ref().map(|removed| &removed.file);
            let files = [index, sidecar, ids].into_iter().chain(removed);
            files.map(|file| file.path.clone()).collect::<Vec<_>>()
        };
        self.segments.iter().flat_map(of_segment).collect()
    }

    /// What is open of the files of `segment` of `content`.
    fn files_like(&self, content: &Content, segment: &Segment) -> OpenFiles {
        let own = &self.manifest.content;
        if own.space_id != content.space_id || own.index != content.index {
            return OpenFiles::default();
        }
        let same_index = |open: &&Opened| {
            open.content.index == segment.index && open.content.sidecar == segment.sidecar
        };
        let index = self.segments.iter().find(same_index);
        // Which keys an ids file belongs to was checked against this index alone.
        let ids = index.filter(|open| open.content.ids == segment.ids);
        OpenFiles {
            index: index.map(|open| Arc::clone(&open.index)),
            ids: ids.map(|open| Arc::clone(&open.ids)),
        }
    }

    /// Asks every segment the canary queries that were recorded when it was built, and reads its note ids. Returns how
    /// many were asked: none of indexes that an earlier release built. Runs on rayon's threads.
    ///
    /// # Errors
    /// Corrupt where a segment answers otherwise, or its files do not belong together.
    pub fn check_canaries(&self) -> Result<usize> {
        let check = |segment: &Opened| {
            let number = segment.shard;
            segment
                .check()
                .context(|| format!("shard {number} of snapshot {}", self.manifest.number))
        };
        self.segments.par_iter().map(check).sum()
    }

    /// The notes that pass a condition on stored columns (`lang = 'en' AND like_count > 10`), for
    /// [`Snapshot::search_among`].
    ///
    /// # Errors
    /// As [`RowFilter::compile`] and [`RowFilter::evaluate`].
    pub fn passing(&self, condition: &str) -> Result<Passing> {
        self.passing_unless(condition, &Cancel::new())
    }

    /// [`Snapshot::passing`] that stops soon after it is cancelled.
    ///
    /// # Errors
    /// As there; those of [`Cancel::check`].
    pub fn passing_unless(&self, condition: &str, cancel: &Cancel) -> Result<Passing> {
        let mut compiled: Vec<(Schema, Arc<RowFilter>)> = Vec::new();
        let mut jobs = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let schema = segment.ids.stored_schema()?;
            let known = compiled.iter().find(|(other, _)| *other == schema);
            let filter = match known {
                Some((_, filter)) => Arc::clone(filter),
                None => {
                    let filter = Arc::new(RowFilter::compile(condition, &schema)?);
                    compiled.push((schema, Arc::clone(&filter)));
                    filter
                }
            };
            jobs.push((segment, filter));
        }
        let rows = on_own_threads(&jobs, |(segment, filter)| {
            Ok(segment.ids.passing(filter, cancel)?.and(&segment.live))
        })?;
        Ok(Passing { content: self.manifest.content_hash, rows })
    }

    /// Whether a search can find a note.
    ///
    /// # Errors
    /// Corrupt where an ids file cannot be read.
    pub fn holds(&self, note: &NoteId) -> Result<bool> {
        let shard = shard_of(note, self.manifest.content.shard_count);
        let of_shard = self.segments.iter().filter(|segment| segment.shard == shard);
        of_shard.map(|segment| segment.holds(note)).try_fold(false, |any, held| Ok(any || held?))
    }

    /// The manifest it was opened from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The `k` notes nearest to `query` (`space.dimensions` values of any length but zero), best first, equal scores by
    /// note id. `exact` compares with every vector instead of walking the graphs. Several segments are searched on rayon's
    /// threads.
    ///
    /// # Errors
    /// Input for a query of other dimensions, non-finite or zero.
    pub fn search_vector(&self, query: &[f32], k: usize, exact: bool) -> Result<Vec<Found>> {
        self.search_within(query, k, exact, None, &|_| Ok(()))
    }

    /// As [`Snapshot::search_vector`], among the notes that pass.
    ///
    /// # Errors
    /// As there; Internal where `passing` is another content's.
    pub fn search_among(
        &self,
        query: &[f32],
        k: usize,
        exact: bool,
        passing: &Passing,
    ) -> Result<Vec<Found>> {
        self.search_within(query, k, exact, Some(passing), &|_| Ok(()))
    }

    /// As [`Snapshot::search_vector`], or [`Snapshot::search_among`] where `passing` is given. `take` is asked for the
    /// bytes of the answer, a few notes at a time, before more of it is read; its error ends the search.
    ///
    /// # Errors
    /// As there; that of `take`.
    pub fn search_within(
        &self,
        query: &[f32],
        k: usize,
        exact: bool,
        passing: Option<&Passing>,
        take: Take<'_>,
    ) -> Result<Vec<Found>> {
        if passing.is_some_and(|passing| passing.content != self.manifest.content_hash) {
            return Err(Error::internal("the filter was evaluated on another snapshot"));
        }
        self.check(query)?;
        let k = k.min(usize::try_from(self.manifest.content.notes).unwrap_or(usize::MAX));
        if k == 0 {
            return Ok(Vec::new());
        }
        let search = |(at, segment): (usize, &Opened)| {
            let rows = passing.and_then(|passing| passing.rows.get(at));
            segment.search(at, query, k, exact, rows.unwrap_or(&segment.live))
        };
        // One alone is asked on this thread: waking another would cost as much as the search.
        let per_segment: Vec<Vec<Candidate>> = match &self.segments[..] {
            [segment] => vec![search((0, segment))?],
            several => several.par_iter().enumerate().map(search).collect::<Result<_>>()?,
        };
        let mut best: Vec<Candidate> = per_segment.into_iter().flatten().collect();
        best.sort_unstable_by(|a, b| {
            b.score.total_cmp(&a.score).then_with(|| a.note_id.cmp(&b.note_id))
        });
        // The chunks of one note may be in several segments of its shard.
        let mut seen = HashSet::new();
        best.retain(|candidate| seen.insert(candidate.note_id.clone()));
        best.truncate(k);
        self.with_stored(best, take)
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
    fn with_stored(&self, best: Vec<Candidate>, take: Take<'_>) -> Result<Vec<Found>> {
        take(best.iter().map(|candidate| FRAME + candidate.note_id.to_string().len()).sum())?;
        let mut stored: Vec<Option<Stored>> = vec![None; best.len()];
        let segments: HashSet<usize> = best.iter().map(|candidate| candidate.segment).collect();
        for segment in segments {
            let (places, rows): (Vec<usize>, Vec<usize>) = best
                .iter()
                .enumerate()
                .filter(|(_, candidate)| candidate.segment == segment)
                .map(|(place, candidate)| (place, candidate.row))
                .unzip();
            let found = self.segments[segment].ids.stored(&rows, take)?;
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
