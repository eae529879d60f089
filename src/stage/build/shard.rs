//! Stage `build`: one shard's notes and vectors become segments: indexes, sidecars and ids files.

use std::collections::HashSet;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entries::{self, Encoded};
use super::segments::{self, Indexed};
use crate::corpus::CorpusMode;
use crate::error::Result;
use crate::index::BuildReport;
use crate::observe::{Event, Stage};
use crate::snapshot::ShardContent;
use crate::stage::calibration;
use crate::stage::ids::{Held, Ids};
use crate::stage::inputs::is_damage;
use crate::stage::plan::{BuildTask, source_digest};
use crate::stage::quarantine::Quarantined;
use crate::stage::worker::TaskEnv;
use crate::store::layout::{self, Key};
use crate::store::receipt::{self, Receipt};
use crate::store::{FileRef, Root};
use crate::types::computing;

/// What a build task made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildReceipt {
    /// Task id.
    pub id: String,
    /// The shard, as the manifest will name it.
    pub shard: ShardContent,
    /// Every part that a vector of the shard is in.
    pub parts: Vec<FileRef>,
    /// What was measured of the shard's segments together; absent in an empty shard.
    pub report: Option<BuildReport>,
    /// Notes left out because they could not be encoded.
    pub quarantined: Vec<Quarantined>,
    /// What was written, and how.
    #[serde(default)]
    pub work: BuildWork,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// Work of a build: files that the parent's shard does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BuildWork {
    /// Vectors inserted into a graph.
    pub inserted: u64,
    /// Shards built as one new base: 0 or 1, in sums more.
    pub rebuilt: u64,
    /// Bytes of usearch files.
    pub index_bytes: u64,
    /// Bytes of sidecars.
    pub sidecar_bytes: u64,
    /// Bytes of ids files and lists of removed keys.
    pub ids_bytes: u64,
    /// Vectors copied to new parts by compaction.
    pub copied: u64,
    /// Bytes of these parts.
    pub copied_bytes: u64,
}

impl std::ops::AddAssign for BuildWork {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.rebuilt += other.rebuilt;
        self.index_bytes += other.index_bytes;
        self.sidecar_bytes += other.sidecar_bytes;
        self.ids_bytes += other.ids_bytes;
        self.copied += other.copied;
        self.copied_bytes += other.copied_bytes;
    }
}

impl Receipt for BuildReceipt {
    fn files(&self) -> Vec<&FileRef> {
        self.shard.files().chain(&self.parts).collect()
    }
}

fn key(task: &BuildTask) -> Result<String> {
    let options_id = task.spec.index.id()?;
    Ok(layout::build_receipt(&options_id, task.shard.prepared.shard, &task.id))
}

/// The receipt of a finished build task.
///
/// # Errors
/// Transient, where the task is not finished.
pub async fn receipt(task: &BuildTask, root: &Root) -> Result<BuildReceipt> {
    receipt::of_finished(root, &key(task)?, &task.id).await
}

/// Runs the task, or returns the receipt of the attempt that finished it.
pub(crate) async fn build(task: &BuildTask, env: &TaskEnv) -> Result<BuildReceipt> {
    let key = key(task)?;
    let mut ours = false;
    let work = async {
        ours = true;
        build_shard(task, env).await
    };
    let receipt = receipt::once(&env.root, &key, work).await?;
    match ours {
        // Not before its receipt is stored: until then the shard may be built again.
        true => env.reporter.event(Event::Progress { stage: Stage::Build, done: 1, tokens: 0 }),
        false => env.adopted.add(&task.id),
    }
    // A receipt that somebody needs all the same is made again.
    env.unless_purged(&task.spec, &[&key], |_| true).await?;
    Ok(receipt)
}

async fn build_shard(task: &BuildTask, env: &TaskEnv) -> Result<BuildReceipt> {
    let (spec, root) = (&task.spec, &env.root);
    let options_id = spec.index.id()?;
    let started = std::time::Instant::now();
    let calibration = calibration::frozen(root, &spec.index, &spec.space_id).await?;
    let held = parent_of(task, env).await?;
    let parent = match (&held, &task.shard.parent) {
        (Some(held), Some(parent)) => Some(Ids::of_segments(held, root, &parent.shard).await?),
        _ => None,
    };
    let mut encoded = Encoded::gather(task, root, parent.as_ref()).await?;
    if held.is_none() && task.shard.parent.is_some() {
        encoded.look_everywhere(task, env).await?;
    }
    let mut target = entries::target(task, env, &encoded, parent).await?;
    env.cancel.check()?;
    let (copied, copied_bytes) = encoded.compact(env, task, &mut target).await?;
    let indexed = segments::index_shard(task, env, held, &target, &calibration).await?;
    let parts = encoded.part_refs(root, task, &target).await?;
    let shard = shard_content(task, root, &options_id, &target, &indexed, &parts).await?;
    let mut work = work_of(task, &shard, &indexed);
    (work.copied, work.copied_bytes) = (copied, copied_bytes);
    Ok(BuildReceipt {
        id: task.id.clone(),
        shard,
        parts,
        report: indexed.report,
        quarantined: encoded.quarantined,
        work,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The parent's segments; `None` without a parent, or, with a warning, if its files are missing or damaged.
/// In delta mode its notes are part of the new shard, and it cannot be done without.
async fn parent_of(task: &BuildTask, env: &TaskEnv) -> Result<Option<Arc<Vec<Held>>>> {
    let Some(parent) = &task.shard.parent else { return Ok(None) };
    match env.inputs.parent(&env.root, &parent.shard).await {
        Ok(held) => Ok(Some(held)),
        Err(error) if is_damage(&error) && task.spec.mode == CorpusMode::Full => {
            env.reporter.warn(format!(
                "shard {} is rebuilt, its parent cannot be read: {error}",
                task.shard.prepared.shard
            ));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn shard_content(
    task: &BuildTask,
    root: &Root,
    options_id: &str,
    target: &Ids,
    indexed: &Indexed,
    parts: &[FileRef],
) -> Result<ShardContent> {
    let number = task.shard.prepared.shard;
    let notes = || target.rows.iter().map(|row| &row.note_id).collect::<HashSet<_>>().len();
    let notes = computing(notes) as u64;
    let mut segments = indexed.segments.iter().cloned();
    let base = segments.next();
    let ids = match &base {
        Some(base) => base.ids.clone(),
        None => target.write(root, options_id, number).await?,
    };
    Ok(ShardContent {
        shard: number,
        notes,
        vectors: target.rows.len() as u64,
        orphans: indexed.report.as_ref().map_or(0, |report| report.orphans),
        source: (task.spec.mode == CorpusMode::Full).then(|| source_digest(&task.shard.prepared)),
        parts: parts.iter().map(|part| part.path.clone()).collect(),
        index: base.as_ref().map(|base| base.index.clone()),
        sidecar: base.as_ref().map(|base| base.sidecar.clone()),
        ids,
        canaries: base.as_ref().map(|base| base.canaries.clone()).unwrap_or_default(),
        removed: base.and_then(|base| base.removed),
        deltas: segments.collect(),
    })
}

/// Bytes of the files that the parent's shard does not name.
fn work_of(task: &BuildTask, shard: &ShardContent, indexed: &Indexed) -> BuildWork {
    let old = FileRef::paths(task.shard.parent.iter().flat_map(|parent| parent.shard.files()));
    let mut work = BuildWork {
        inserted: indexed.inserted,
        rebuilt: u64::from(indexed.rebuilt),
        ..BuildWork::default()
    };
    for file in shard.files().filter(|file| !old.contains(file.path.as_str())) {
        let bytes = match layout::parse(&file.path) {
            Some(Key::Index { .. }) => &mut work.index_bytes,
            Some(Key::Sidecar { .. }) => &mut work.sidecar_bytes,
            _ => &mut work.ids_bytes,
        };
        *bytes += file.size;
    }
    work
}
