//! The plan: everything a run will do, as JSON, before it does it. Envelopes hold no handle and no secret.

use std::collections::HashSet;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::live::PartsSummary;
use crate::corpus::{CorpusMode, PrepareOutcome, PreparedShard};
use crate::error::{Error, ErrorKind, Result, ResultExt, unreadable};
use crate::index::{IndexOptions, Recall};
use crate::snapshot::{PlannedUnder, QueryTower, ShardContent, Tombstones, overtaken_by_purge};
use crate::stage::ids::{IdRow, Ids};
use crate::stage::{AdaptOptions, EncodeOptions, GateOptions};
use crate::store::{FileRef, PutOutcome, Root, layout};
use crate::tower::{Tower, TowerOptions};
use crate::types::{Digest256, EmbeddingSpace, Hasher256, SpaceId, hash_json};

/// Version of the plan format that this release writes and reads.
pub const PLAN_VERSION: u32 = 2;

/// What all envelopes of one run share: identities and options, resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Run id, also the folder below `runs/` and `prepared/`.
    pub run: String,
    /// The tower, every path absolute, a hub's model by its commit.
    pub tower: TowerOptions,
    /// What its vectors mean.
    pub space: EmbeddingSpace,
    /// Name of the space.
    pub space_id: SpaceId,
    /// SHA-256 of the template's source.
    pub template: Digest256,
    /// Batching and parts.
    pub encode: EncodeOptions,
    /// Index options.
    pub index: IndexOptions,
    /// Share of a base index, in percent, that may have changed before the shard is rebuilt as one; no part of the
    /// options' identity.
    pub rebuild_churn_percent: f64,
    /// Stored columns, in order.
    pub stored_columns: Vec<String>,
    /// What absence of a note means.
    pub mode: CorpusMode,
    /// Number of shards.
    pub shard_count: u32,
    /// Number of the parent snapshot.
    pub parent: Option<u64>,
    /// Names the tombstones of the parent snapshot; absent where it has none. Under others the plan is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<Digest256>,
}

impl RunSpec {
    /// What it was planned under.
    pub fn under(&self) -> PlannedUnder {
        PlannedUnder { parent: self.parent, stamp: self.purged }
    }
}

/// What happens to one shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardPlan {
    /// Its prepared notes.
    pub prepared: PreparedShard,
    /// The parent snapshot's shard where it has the same notes' hash bucket and space: where most vectors lie, and what
    /// the new index may extend.
    pub parent: Option<ParentShard>,
    /// Where vectors of its texts lie that are stored already but not in `parent` (`located` file); absent if none is.
    pub located: Option<FileRef>,
    /// True where the parent's shard is taken over unchanged, without a task.
    pub unchanged: bool,
    /// Note counts against the parent.
    pub notes: NoteChanges,
    /// Distinct texts whose vectors the parent's shard has.
    pub texts_from_parent: u64,
    /// Distinct texts whose vectors are in parts of other shards, other days or runs that did not finish.
    pub texts_from_elsewhere: u64,
    /// Distinct texts that no part holds.
    pub texts_to_encode: u64,
    /// Exact tokens of those texts, prompt included.
    pub tokens_to_encode: u64,
    /// Texts that will be cut to `max_tokens`.
    pub texts_truncated: u64,
    /// Tokens that padding every batch of 32 neighbours to its longest would have added.
    pub padding_avoided: u64,
    /// Digest over the missing text hashes, in order: identity of the encode task.
    pub missing: Digest256,
}

/// A shard of the parent snapshot, as far as the new one may take it over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParentShard {
    /// The shard as the parent's manifest names it.
    pub shard: ShardContent,
    /// The parts that its vectors are in, but for those that are gone.
    pub parts: Vec<FileRef>,
    /// Those of `parts`, by key, of which so few rows are live that the live ones move to new parts.
    pub compact: Vec<String>,
    /// Absent where its index cannot be extended: other options, columns or scale.
    pub index: Option<ParentIndex>,
}

impl ParentShard {
    /// Those of the shard's rows whose vectors are still there.
    pub(crate) fn stored<'a>(&self, ids: &'a Ids) -> impl Iterator<Item = &'a IdRow> + use<'a> {
        let parts: HashSet<String> = self.parts.iter().map(|part| part.path.clone()).collect();
        ids.rows.iter().filter(move |row| parts.contains(&*row.place.part))
    }
}

/// What an updated index must reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParentIndex {
    /// Recall of the parent's shard, if it is known.
    pub recall: Option<Recall>,
    /// Least recall that the gate asks for.
    pub recall_min: f64,
}

/// Notes of one shard against the parent snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoteChanges {
    /// Not in the parent.
    pub new: u64,
    /// In the parent with another text.
    pub changed: u64,
    /// In the parent with the same text.
    pub unchanged: u64,
    /// In the parent only (or deleted by a delta).
    pub deleted: u64,
}

impl std::ops::AddAssign for NoteChanges {
    fn add_assign(&mut self, other: Self) {
        self.new += other.new;
        self.changed += other.changed;
        self.unchanged += other.unchanged;
        self.deleted += other.deleted;
    }
}

/// A task as JSON: self-contained given a root; names inputs by reference with hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "lowercase", deny_unknown_fields)]
pub enum Envelope {
    /// Encode the missing texts of one shard into parts.
    Encode(EncodeTask),
    /// Fit and freeze the quantisation scale, after all encode tasks.
    Calibrate(CalibrateTask),
    /// Adapt the query tower to the corpus, after all encode tasks.
    Adapt(Box<AdaptTask>),
    /// Build one shard's index and ids file, after the calibration.
    Build(BuildTask),
}

/// Encode one shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncodeTask {
    /// Task id, from its content.
    pub id: String,
    /// Shared identities and options.
    pub spec: RunSpec,
    /// The shard.
    pub shard: ShardPlan,
    /// Stops after this many tokens of the missing texts, in the order of the prepared file: a night's share of a
    /// back-fill. The shard's counts are then those of the share, its texts estimated. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_limit: Option<u64>,
}

/// Fit the quantisation scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrateTask {
    /// Task id, from its content.
    pub id: String,
    /// Shared identities and options.
    pub spec: RunSpec,
}

/// Adapt the query tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptTask {
    /// Task id, from its content.
    pub id: String,
    /// Shared identities and options.
    pub spec: RunSpec,
    /// How it learns, and what it may cost.
    pub options: AdaptOptions,
    /// The query tower as the pipeline names it, every path absolute.
    pub student: TowerOptions,
    /// Fingerprint of that tower.
    pub fingerprint: Digest256,
    /// The document tower with the prompt and length of the queries that the query tower was taught by.
    pub teacher: TowerOptions,
    /// The notes.
    pub notes: Vec<PreparedShard>,
    /// What became of the same tower in the parent snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<QueryTower>,
}

/// Build one shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildTask {
    /// Task id, from its content.
    pub id: String,
    /// Shared identities and options.
    pub spec: RunSpec,
    /// The shard.
    pub shard: ShardPlan,
    /// The encode task whose receipt this build reads; absent if nothing had to be encoded.
    pub encode: Option<String>,
}

impl Envelope {
    /// The task's id: stage and shard for people, then 16 hex digits of its content.
    pub fn id(&self) -> &str {
        match self {
            Self::Encode(task) => &task.id,
            Self::Calibrate(task) => &task.id,
            Self::Adapt(task) => &task.id,
            Self::Build(task) => &task.id,
        }
    }

    /// What it shares with the other envelopes of its run.
    pub fn spec(&self) -> &RunSpec {
        match self {
            Self::Encode(task) => &task.spec,
            Self::Calibrate(task) => &task.spec,
            Self::Adapt(task) => &task.spec,
            Self::Build(task) => &task.spec,
        }
    }
}

/// The plan of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Shared identities and options.
    pub spec: RunSpec,
    /// SHA-256 of the SQL: provenance only.
    pub sql: Digest256,
    /// What `prepare` read, dropped and rejected.
    pub prepared: PrepareOutcome,
    /// Gates to apply when publishing.
    pub gates: GateOptions,
    /// Every shard, in order.
    pub shards: Vec<ShardPlan>,
    /// The parts that the shards take vectors from.
    pub parts: PartsSummary,
    /// Encode tasks: any order, any machine.
    pub encode: Vec<EncodeTask>,
    /// Then the calibration, where there is none yet.
    pub calibrate: Option<CalibrateTask>,
    /// After the encode tasks, too: the adaptation of the query tower, where the pipeline asks for one and anything
    /// changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt: Option<Box<AdaptTask>>,
    /// Then build tasks: any order, any machine.
    pub build: Vec<BuildTask>,
    /// Present where this is a night's back-fill of the tower that is to take over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<Backfill>,
}

/// What makes a plan a night's back-fill: how far its space was, and whether this night can end it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// The run that publishes the same day's notes with the tower of now.
    pub of: String,
    /// Distinct texts that the space needs for the corpus of the day.
    pub texts: u64,
    /// Those that it held when the night was planned.
    pub texts_stored: u64,
    /// Exact tokens of the others, prompt included.
    pub tokens_missing: u64,
    /// Tokens that this night's tasks encode.
    // The name that files have had since 0.1.0.
    #[serde(rename = "tokens_tonight")]
    pub tokens_this_run: u64,
    /// True where they are all: the plan then builds the indexes, and publishing it is the switch.
    pub switches: bool,
}

impl Plan {
    /// Number of tasks; 0 means that nothing changed and nothing will be published.
    pub fn tasks(&self) -> usize {
        let single = [self.calibrate.is_some(), self.adapt.is_some()];
        self.encode.len() + single.into_iter().map(usize::from).sum::<usize>() + self.build.len()
    }

    /// Where the plan is under the root.
    pub fn key(run: &str) -> String {
        layout::plan(run)
    }

    /// The envelope with this id.
    pub fn envelope(&self, id: &str) -> Result<Envelope> {
        let encode = self.encode.iter().find(|task| task.id == id).cloned().map(Envelope::Encode);
        let build = || self.build.iter().find(|task| task.id == id).cloned().map(Envelope::Build);
        let calibrate =
            || self.calibrate.iter().find(|task| task.id == id).cloned().map(Envelope::Calibrate);
        let adapt = || self.adapt.iter().find(|task| task.id == id).cloned().map(Envelope::Adapt);
        encode.or_else(build).or_else(calibrate).or_else(adapt).ok_or_else(|| {
            Error::usage(format!(
                "plan of run {} has no task {id}; `scalingnote plan --json` lists the tasks",
                self.spec.run
            ))
        })
    }

    /// Writes the plan; it is never changed afterwards.
    ///
    /// # Errors
    /// Conflict where notes were purged meanwhile: the plan and what was prepared for it are gone again.
    pub async fn store(&self, root: &Root) -> Result<()> {
        root.put(&Self::key(&self.spec.run), self.json()?).await?;
        self.unless_purged(root).await
    }

    /// Writes the plan, unless another attempt of the same run was first: then that one's is the plan.
    ///
    /// # Errors
    /// As [`Plan::store`].
    pub async fn store_once(self, root: &Root) -> Result<Self> {
        match root.put_if_absent(&Self::key(&self.spec.run), self.json()?).await? {
            PutOutcome::Created => self.unless_purged(root).await.map(|()| self),
            PutOutcome::AlreadyExists => Self::load(root, &self.spec.run).await,
        }
    }

    fn json(&self) -> Result<Bytes> {
        serde_json::to_vec(self).map(Bytes::from).context(|| "writing the plan as JSON")
    }

    async fn unless_purged(&self, root: &Root) -> Result<()> {
        let tombstones = Tombstones::default();
        if tombstones.since(root, self.spec.under()).await?.is_none() {
            return Ok(());
        }
        root.delete(&Self::key(&self.spec.run)).await?;
        discard_prepared(root, &self.spec.run).await?;
        Err(overtaken_by_purge(&format!("run {}", self.spec.run)))
    }

    /// The plan of a run, if an earlier attempt stored it.
    pub async fn stored(root: &Root, run: &str) -> Result<Option<Self>> {
        match root.size(&Self::key(run)).await? {
            Some(_) => Self::load(root, run).await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads the plan of a run.
    pub async fn load(root: &Root, run: &str) -> Result<Self> {
        let way_out = "run `scalingnote plan` again";
        load_plan(root, &Self::key(run), ("a plan", PLAN_VERSION), way_out).await
    }
}

/// A plan of some kind, of the version that this release reads.
pub(super) async fn load_plan<T: DeserializeOwned>(
    root: &Root,
    key: &str,
    (what, reads): (&str, u32),
    way_out: &str,
) -> Result<T> {
    let bytes = root.get(key).await?;
    let damaged = || format!("{key} is not {what}; {way_out}");
    let json: serde_json::Value =
        serde_json::from_slice(&bytes).or_error(ErrorKind::Corrupt, damaged)?;
    let version = json.get("version").and_then(serde_json::Value::as_u64);
    if version.is_some_and(|version| version != u64::from(reads)) {
        return Err(Error::unsupported(format!(
            "{key} is {what} of another release: it has version {}, this release reads {reads}; {way_out}",
            version.unwrap_or(0)
        )));
    }
    serde_json::from_value(json).map_err(|cause| unreadable(cause, key, damaged()))
}

/// Deletes the prepared notes of a run.
pub async fn discard_prepared(root: &Root, run: &str) -> Result<()> {
    for file in root.list(&layout::prepared_dir(run)).await? {
        root.delete(&file.key).await?;
    }
    Ok(())
}

/// Identity of an encode task: same space, shard and missing texts, same task.
pub(crate) fn encode_task_id(spec: &RunSpec, shard: &ShardPlan) -> String {
    let mut hasher = Hasher256::new();
    hasher.field(&spec.space_id.0).field(shard.prepared.shard.to_le_bytes()).field(shard.missing.0);
    format!("encode-{:05}-{}", shard.prepared.shard, hasher.finish().short())
}

/// Identity of a build task: same space, options, prepared content and columns, and the same parent, since the index
/// extends that.
pub(crate) fn build_task_id(spec: &RunSpec, options_id: &str, shard: &ShardPlan) -> Result<String> {
    let mut hasher = Hasher256::new();
    hasher
        .field(&spec.space_id.0)
        .field(options_id)
        .field(shard.prepared.shard.to_le_bytes())
        .field(shard.prepared.content.0)
        .field(shard.prepared.columns.0)
        .field(spec.stored_columns.join("\u{0}"));
    if let Some(parent) = &shard.parent {
        hasher.field(hash_json(&(&parent.shard, &parent.compact, parent.index.is_some()))?.0);
    }
    Ok(format!("build-{:05}-{}", shard.prepared.shard, hasher.finish().short()))
}

/// Turns every path of the tower's options into an absolute one, so that an envelope works from any folder.
/// Repository ids and `fake:` towers stay as they are.
pub fn absolute_tower(options: &TowerOptions, base_dir: &std::path::Path) -> TowerOptions {
    let absolute = |text: &String| {
        let path = base_dir.join(text).canonicalize();
        path.map_or_else(|_| text.clone(), |path| path.to_string_lossy().into_owned())
    };
    TowerOptions {
        model: absolute(&options.model),
        tokenizer: options.tokenizer.as_ref().map(absolute),
        adapter: options.adapter.as_ref().map(absolute),
        head: options.head.as_ref().map(absolute),
        ..options.clone()
    }
}

/// [`absolute_tower`] of options that `tower` was resolved from: a hub's model by the commit that was found, and what
/// was left to the model as it said it, so that an envelope or a manifest leads to these very files whatever is pushed
/// afterwards, and to these very vectors.
pub fn resolved_tower(
    options: &TowerOptions,
    base_dir: &std::path::Path,
    tower: &Tower,
) -> TowerOptions {
    let TowerOptions {
        revision, pooling, prompt_prefix, prompt_suffix, max_tokens, normalize, ..
    } = tower.options().clone();
    TowerOptions {
        revision,
        pooling,
        prompt_prefix,
        prompt_suffix,
        max_tokens,
        normalize,
        ..absolute_tower(options, base_dir)
    }
}
