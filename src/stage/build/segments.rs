//! How the index of a shard follows its notes from day to day.
//!
//! A shard is a base segment and deltas, each an immutable index with its sidecar and ids file, and for each the keys
//! that no longer count. A day adds one delta with the vectors that came and longer lists of removed keys; nothing
//! that is published is written again, so a day that changes 1% writes about 1% of the bytes. (An index updated in
//! place on a copy of its parent instead writes all of it: 43% of a full run's bytes at 1,024 dimensions.)
//!
//! A new delta swallows the deltas before it that are no larger than what it has gathered so far, as a binary
//! counter carries: with a churn of 1% a day a vector is written again at most five times before the shard is rebuilt,
//! and a search asks at most six segments. A shard is rebuilt as one base where the vectors gone from the base, or
//! those outside it, exceed `index.rebuild_churn_percent` of it; where a segment has unreachable vectors; where the
//! recall of all segments together, measured as they serve, falls below the gate or the parent's interval; and where
//! the parent's files are missing or damaged. Rebuilding also is how a vector is erased: a removed one stays in its
//! immutable segment until then.
//!
//! Every segment is named by its content (space, options, scale, keys and text hashes), and which segments a snapshot
//! has follows from its parent's segments and its notes alone. So a task that is tried again, on whatever machine,
//! makes the same segments, and a history of corpora makes the same snapshots whatever failed in between.

use std::sync::Arc;

use super::index_job::{IndexJob, IndexReceipt, working_folder};
use crate::error::{Result, ResultExt};
use crate::index::{self, BuildReport, Calibration, Recall, RowSet, ShardIndex};
use crate::snapshot::{Purged, Removed, Segment, removed};
use crate::stage::ids::{Held, IdRow, Ids, concat_stored, take_rows};
use crate::stage::inputs::is_damage;
use crate::stage::plan::{BuildTask, ParentIndex};
use crate::stage::worker::TaskEnv;
use crate::store::{FileRef, layout};
use crate::types::{Digest256, computing};

/// The index of a shard, ready to be named in a manifest.
pub(super) struct Indexed {
    /// Base first; none in an empty shard.
    pub segments: Vec<Segment>,
    /// What was measured of all segments together; absent in an empty shard.
    pub report: Option<BuildReport>,
    /// Vectors that were inserted into a graph for this.
    pub inserted: u64,
    /// Whether the shard is one new base.
    pub rebuilt: bool,
}

/// Brings the parent's segments up to `target`, or builds the shard as one.
pub(super) async fn index_shard(
    task: &BuildTask,
    env: &TaskEnv,
    parent: Option<Arc<Vec<Held>>>,
    target: &Ids,
    calibration: &Calibration,
) -> Result<Indexed> {
    if target.rows.is_empty() {
        return Ok(Indexed { segments: Vec::new(), report: None, inserted: 0, rebuilt: false });
    }
    let (spec, number) = (&task.spec, task.shard.prepared.shard);
    let job = IndexJob {
        space: &spec.space_id,
        dimensions: spec.space.dimensions as usize,
        options: &spec.index,
        options_id: &spec.index.id()?,
        calibration,
        shard: number,
    };
    let shard = Shard { task, env, job };
    let limits = task.shard.parent.as_ref().and_then(|parent| parent.index);
    if let (Some(held), Some(limits)) = (parent, limits) {
        match shard.update(held, target, limits).await {
            Ok(Ok(indexed)) => return Ok(indexed),
            Ok(Err(reason)) => {
                env.reporter.info(format!("shard {number} is rebuilt: {reason}"));
            }
            Err(error) if is_damage(&error) => env
                .reporter
                .warn(format!("shard {number} is rebuilt, its parent cannot be extended: {error}")),
            Err(error) => return Err(error),
        }
    }
    shard.rebuild(target).await
}

/// Which rows of the parent's segments stay, and what is new.
struct Follow<'a> {
    kept: Vec<Kept<'a>>,
    /// Rows of the target that no kept segment holds, ascending.
    fresh: Vec<usize>,
}

/// A segment that stays.
struct Kept<'a> {
    held: &'a Held,
    /// For each of its rows that of the target; `None` for a removed one.
    rows: Vec<Option<usize>>,
}

impl Kept<'_> {
    fn live(&self) -> usize {
        self.rows.iter().flatten().count()
    }

    /// Its rows as they are in the target; `None` if nothing in them changed.
    fn renewed(&self, target: &Ids) -> Result<Option<Ids>> {
        let old = &self.held.ids;
        let (here, there): (Vec<u32>, Vec<u32>) = self
            .rows
            .iter()
            .enumerate()
            .filter_map(|(row, at)| Some((row as u32, (*at)? as u32)))
            .unzip();
        let same = here
            .iter()
            .zip(&there)
            .all(|(row, at)| old.rows[*row as usize] == target.rows[*at as usize])
            && take_rows(&old.stored, here)?.columns()
                == take_rows(&target.stored, there)?.columns();
        if same {
            return Ok(None);
        }
        let (wanted, own) = (target.rows.len(), old.rows.len());
        let both = [target.stored.clone(), old.stored.clone()];
        let both = concat_stored(&target.stored.schema(), &both, wanted + own)?;
        let picked =
            self.rows.iter().enumerate().map(|(row, at)| at.unwrap_or(wanted + row) as u32);
        let rows = self.rows.iter().zip(&old.rows).map(|(at, old)| match at {
            Some(at) => target.rows[*at].clone(),
            None => old.clone(),
        });
        Ok(Some(Ids { rows: rows.collect(), stored: take_rows(&both, picked.collect())? }))
    }
}

/// Decides what stays; the reason where the shard has to be rebuilt.
fn follow<'a>(
    held: &'a [Held],
    target: &Ids,
    rebuild_churn_percent: f64,
) -> Result<Follow<'a>, String> {
    let mut fresh = vec![true; target.rows.len()];
    let mut kept: Vec<Kept<'_>> = Vec::with_capacity(held.len());
    for segment in held {
        let rows: Vec<Option<usize>> = segment
            .ids
            .rows
            .iter()
            .map(|row| {
                let at = target.rows.binary_search_by_key(&row.key, |row| row.key).ok()?;
                let wanted = &target.rows[at];
                let same = wanted.text_hash == row.text_hash
                    && wanted.note_id == row.note_id
                    && wanted.chunk == row.chunk;
                (same && segment.is_live(row) && std::mem::take(&mut fresh[at])).then_some(at)
            })
            .collect();
        kept.push(Kept { held: segment, rows });
    }
    let base = kept.first().ok_or("there is no base yet")?;
    let (size, live) = (base.rows.len(), base.live());
    let churn = (size - live).max(target.rows.len() - live);
    if churn as f64 * 100.0 > rebuild_churn_percent * size as f64 {
        return Err(format!(
            "{churn} vectors came or went since its base of {size} was built, more than {rebuild_churn_percent}%"
        ));
    }
    let mut gathered = fresh.iter().filter(|fresh| **fresh).count();
    while let Some(last) = kept.last().filter(|_| kept.len() > 1) {
        let live = last.live();
        // A delta without live rows is dropped; one at most as large as the new rows is merged with them.
        if live > 0 && (gathered == 0 || last.rows.len() > gathered) {
            break;
        }
        last.rows.iter().flatten().for_each(|at| fresh[*at] = true);
        gathered += live;
        kept.pop();
    }
    let fresh = (0..target.rows.len()).filter(|at| fresh[*at]).collect();
    Ok(Follow { kept, fresh })
}

/// Whether one of the rows is a purged note's.
fn holds(rows: &[IdRow], purged: &Purged) -> bool {
    rows.iter().any(|row| purged.contains(&row.note_id))
}

/// One shard's build.
struct Shard<'a> {
    task: &'a BuildTask,
    env: &'a TaskEnv,
    job: IndexJob<'a>,
}

impl Shard<'_> {
    /// One new segment of these rows (ascending by key).
    async fn segment(&self, ids: &Ids) -> Result<(Segment, BuildReport)> {
        // The ids come first: an index alone would not tell whose vectors it holds.
        let (vectors, written) = (ids.rows.len() as u64, self.write_ids(ids).await?);
        let IndexReceipt { index, sidecar, report, canaries } =
            self.job.build(&self.env.root, &ids.rows, &self.env.cancel).await?;
        let all = [&*self.job.receipt(&ids.rows), &index.path, &sidecar.path, &written.path];
        self.env.unless_purged(&self.task.spec, &all, |purged| holds(&ids.rows, purged)).await?;
        Ok((Segment { vectors, index, sidecar, ids: written, removed: None, canaries }, report))
    }

    async fn write_ids(&self, ids: &Ids) -> Result<FileRef> {
        let file = ids.write(&self.env.root, self.job.options_id, self.job.shard).await?;
        let spec = &self.task.spec;
        self.env.unless_purged(spec, &[&file.path], |purged| holds(&ids.rows, purged)).await?;
        Ok(file)
    }

    async fn rebuild(&self, target: &Ids) -> Result<Indexed> {
        let (segment, report) = self.segment(target).await?;
        let inserted = segment.vectors;
        Ok(Indexed { segments: vec![segment], report: Some(report), inserted, rebuilt: true })
    }

    /// The parent's segments brought up to `target`; the reason where a rebuild is better.
    async fn update(
        &self,
        held: Arc<Vec<Held>>,
        target: &Ids,
        limits: ParentIndex,
    ) -> Result<Result<Indexed, String>> {
        let Follow { kept, fresh } =
            match computing(|| follow(&held, target, self.task.spec.rebuild_churn_percent)) {
                Ok(follow) => follow,
                Err(reason) => return Ok(Err(reason)),
            };
        let mut segments = Vec::with_capacity(kept.len() + 1);
        let mut live = Vec::with_capacity(kept.len() + 1);
        for kept in kept {
            let Some(ids) = self.ids_of(&kept, target).await? else {
                return Ok(Err("a stored column has another type".to_owned()));
            };
            let (removed, keys) = self.removed_of(&kept).await?;
            live.push(keys);
            segments.push(Segment { ids, removed, ..kept.held.segment.clone() });
        }
        // Building takes memory itself.
        drop(held);
        let mut made = None;
        let inserted = fresh.len() as u64;
        if !fresh.is_empty() {
            let ids = computing(|| -> Result<Ids> {
                let places = fresh.iter().map(|&at| at as u32).collect();
                let stored = take_rows(&target.stored, places)?;
                Ok(Ids { rows: fresh.iter().map(|&at| target.rows[at].clone()).collect(), stored })
            })?;
            let (segment, report) = self.segment(&ids).await?;
            live.push(Vec::new());
            segments.push(segment);
            made = Some(report);
        }
        let measured = match limits.recall.filter(|_| self.serves_the_same(&segments)) {
            Some(recall) => Ok(recall),
            None => self.measure(&segments, live).await?,
        };
        let report = match measured {
            Ok(recall) => BuildReport {
                vectors: target.rows.len() as u64,
                // Where there is one, `measure` asks for a rebuild.
                orphans: 0,
                repaired: made.as_ref().map_or(0, |made| made.repaired),
                clipped: made.as_ref().map_or(0.0, |made| made.clipped),
                recall,
            },
            Err(reason) => return Ok(Err(reason)),
        };
        let (recall, floor) = (report.recall, limits.recall.map_or(0.0, |parent| parent.low));
        if recall.high < limits.recall_min.max(floor) {
            return Ok(Err(format!(
                "its segments together reach recall {:.3} (at most {:.3}), the gate asks for {}, the parent had {floor:.3} or more",
                recall.mean, recall.high, limits.recall_min
            )));
        }
        Ok(Ok(Indexed { segments, report: Some(report), inserted, rebuilt: false }))
    }

    /// Whether these are the parent's vectors in the parent's graphs: only columns or places of vectors changed.
    fn serves_the_same(&self, segments: &[Segment]) -> bool {
        let parent = self.task.shard.parent.as_ref().map(|parent| parent.shard.segments());
        parent.is_some_and(|parent| {
            parent.len() == segments.len()
                && parent
                    .iter()
                    .zip(segments)
                    .all(|(old, new)| old.index == new.index && old.removed == new.removed)
        })
    }

    /// The ids file of a segment that stays: the old one where nothing in it changed. `None` where its columns have
    /// other types than the target's.
    async fn ids_of(&self, kept: &Kept<'_>, target: &Ids) -> Result<Option<FileRef>> {
        let old = &kept.held.ids;
        if old.stored.schema().fields() != target.stored.schema().fields() {
            return Ok(None);
        }
        match computing(|| kept.renewed(target))? {
            None => Ok(Some(kept.held.segment.ids.clone())),
            Some(ids) => self.write_ids(&ids).await.map(Some),
        }
    }

    /// The removed keys of a segment that stays, with their file: the old one where no more were removed.
    async fn removed_of(&self, kept: &Kept<'_>) -> Result<(Option<Removed>, Vec<u64>)> {
        let gone = kept.held.ids.rows.iter().zip(&kept.rows).filter(|(_, at)| at.is_none());
        let keys: Vec<u64> = gone.map(|(row, _)| row.key).collect();
        if keys == kept.held.removed {
            return Ok((kept.held.segment.removed.clone(), keys));
        }
        let bytes = removed::to_parquet(&keys)?;
        let name = Digest256::of(&bytes).short();
        let path = layout::removed_file(self.job.options_id, self.job.shard, &name);
        let file = self.env.root.put(&path, bytes).await?;
        let spec = &self.task.spec;
        let rows = &kept.held.ids.rows;
        self.env.unless_purged(spec, &[&file.path], |purged| holds(rows, purged)).await?;
        Ok((Some(Removed { vectors: keys.len() as u64, file }), keys))
    }

    /// Audits every segment and measures them as they serve; the reason for a rebuild where a vector is unreachable.
    async fn measure(
        &self,
        segments: &[Segment],
        removed: Vec<Vec<u64>>,
    ) -> Result<Result<Recall, String>> {
        let folder = working_folder()?;
        let mut files = Vec::with_capacity(segments.len());
        for segment in segments {
            let root = &self.env.root;
            let index = root.fetch(&segment.index, folder.path()).await?;
            files.push((index, root.fetch(&segment.sidecar, folder.path()).await?));
        }
        let (options, calibration) = (self.job.options.clone(), self.job.calibration.clone());
        let cancel = self.env.cancel.clone();
        let measuring = move || -> Result<Result<Recall, String>> {
            let mut opened = Vec::with_capacity(files.len());
            for ((index, sidecar), removed) in files.iter().zip(&removed) {
                let audited = index::audit(index)?;
                if !audited.orphans.is_empty() {
                    return Ok(Err(format!("{} vectors are unreachable", audited.orphans.len())));
                }
                let shard = ShardIndex::open(index, sidecar, &options, &calibration)?;
                let live = RowSet::without(shard.keys(), removed)?;
                opened.push((shard, live));
            }
            let serving: Vec<_> = opened.iter().map(|(shard, live)| (shard, live)).collect();
            index::measure(&serving, &cancel).map(Ok)
        };
        let measured = tokio::task::spawn_blocking(measuring)
            .await
            .context(|| "measuring a shard ended unexpectedly")?;
        drop(folder);
        measured
    }
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
