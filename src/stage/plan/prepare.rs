//! Stage `prepare`: one DataFusion job over the corpus, then the comparison with what is stored, then the plan.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;

use super::adapt::{self, AdaptRequest};
use super::compare::{Compared, compare_all};
use super::envelope::{
    BuildTask, CalibrateTask, EncodeTask, NoteChanges, PLAN_VERSION, Plan, RunSpec, ShardPlan,
    build_task_id, encode_task_id, resolved_tower,
};
use super::live::PartsSummary;
use super::notes::{NotesRequest, unless_purged, warn_of_purged};
use super::parent::{Comparison, lost_files, refuse_impossible_delta};
use super::tokens::{Counted, count_tokens};
use crate::corpus::{
    self, CorpusInput, CorpusMode, Feed, FeedRequest, PrepareOutcome, PrepareRequest, TableFormat,
};
use crate::error::{Error, Result};
use crate::observe::format::counted;
use crate::observe::{Event, Stage};
use crate::snapshot::{self, Manifest, PlannedUnder};
use crate::stage::inputs::Inputs;
use crate::stage::{BuildOptions, EncodeOptions, GateOptions};
use crate::store::layout;
use crate::tower::{Tower, TowerOptions};
use crate::types::{Digest256, SpaceId, hash_json};

/// What planning needs.
pub struct PlanRequest<'a> {
    /// What the notes depend on; `keep_texts` is for a tower of another space that will read them too.
    pub notes: NotesRequest<'a>,
    /// The tower as configured.
    pub tower_options: &'a TowerOptions,
    /// The same tower, resolved.
    pub tower: &'a Tower,
    /// Batching and parts.
    pub encode: &'a EncodeOptions,
    /// Index options, sharding and memory.
    pub build: &'a BuildOptions,
    /// Gates.
    pub gates: &'a GateOptions,
    /// The query tower, where it is to be adapted to the corpus.
    pub adapt: Option<AdaptRequest<'a>>,
    /// The prepared notes, where another plan of the same day has them already: same SQL, template and chunks.
    pub prepared: Option<&'a PrepareOutcome>,
}

/// A plan and what was learnt on the way that is not part of it.
pub struct Planned {
    /// The plan; not stored yet.
    pub plan: Plan,
    /// The parent snapshot.
    pub parent: Option<Manifest>,
    /// Distinct texts of the shards that are not taken over as they are.
    pub texts: u64,
    /// Token counts of the texts to encode: bucket's upper end -> texts.
    pub lengths: BTreeMap<u32, u64>,
    /// Token ids of the first texts to encode, to try a device with; none where another process planned.
    pub sample: Vec<Vec<u32>>,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// Reads the corpus, compares it with the newest snapshot and with every stored part, and plans the tasks.
pub async fn plan(request: PlanRequest<'_>) -> Result<Planned> {
    let started = Instant::now();
    // Boxed, and out of this future: the one that reads all rows seldom runs.
    let once = |may_read_changes| plan_once(&request, started, may_read_changes).boxed();
    match once(true).await? {
        Some(planned) => Ok(planned),
        // All rows say which notes there are.
        None => once(false)
            .await?
            .ok_or_else(|| Error::internal("all rows of a table are fewer than all")),
    }
}

/// `None` where only the rows that changed were read, and do not tell which notes there are.
async fn plan_once(
    request: &PlanRequest<'_>,
    started: Instant,
    may_read_changes: bool,
) -> Result<Option<Planned>> {
    let notes = &request.notes;
    let NotesRequest { input, root, run, .. } = *notes;
    let CorpusInput { options: corpus, base_dir, reporter, cancel, .. } = input;
    let parent = snapshot::newest(root).await?;
    let inputs = Arc::<Inputs>::default();
    let spec_space = request.tower.space(Digest256::of(corpus.template.as_bytes()));
    let space_id = spec_space.id()?;
    let lost = Box::pin(lost_files(root, parent.as_ref())).await?;
    for shard in parent.iter().flat_map(|parent| &parent.content.shards) {
        let mut files = shard.files().map(|file| &file.path).chain(&shard.parts);
        if let Some(file) = files.find(|file| lost.contains(*file)) {
            let number = shard.shard;
            reporter
                .warn(format!("shard {number} is made again where it needs {file}: it is gone"));
        }
    }
    let prepared = match request.prepared {
        Some(prepared) => prepared.clone(),
        None => {
            let feed = feed_of(notes, parent.as_ref(), &lost, &space_id)?;
            let since = |feed: &FeedRequest| feed.since.clone().filter(|_| may_read_changes);
            let prepare = PrepareRequest {
                feed: feed.map(|feed| FeedRequest { since: since(&feed), ..feed }),
                ..notes.prepare(&inputs, parent.as_ref(), &lost, Some(&space_id)).await?
            };
            let under = PlannedUnder::of(parent.as_ref());
            let preparing = Box::pin(corpus::prepare(prepare));
            let prepared = unless_purged(root, run, under, preparing).await?;
            warn_of_purged(&prepared, &**reporter);
            prepared
        }
    };
    let spec = RunSpec {
        run: run.to_owned(),
        tower: resolved_tower(request.tower_options, base_dir, request.tower),
        space_id,
        template: spec_space.template,
        space: spec_space,
        encode: request.encode.clone(),
        index: request.build.index(),
        rebuild_churn_percent: request.build.rebuild_churn_percent,
        stored_columns: corpus.stored_columns.clone(),
        mode: prepared.mode.unwrap_or(corpus.mode),
        shard_count: prepared.shards.len() as u32,
        parent: parent.as_ref().map(|parent| parent.number),
        purged: parent.as_ref().and_then(|parent| parent.purged.stamp()),
    };
    refuse_impossible_delta(&spec, parent.as_ref(), &lost)?;
    let recall_min = request.gates.recall_min;
    let comparison =
        Comparison::new(root, &inputs, &spec, parent.as_ref(), lost, recall_min).await?;
    let comparison = Arc::new(comparison);
    let (shards, parts) = compare_all(&comparison, &prepared.shards, reporter, cancel).await?;
    if let Some(now) = prepared.notes_now {
        let mut changes = NoteChanges::default();
        shards.iter().for_each(|shard| changes += shard.plan.notes);
        let known = changes.new + changes.changed + changes.unchanged;
        if known != now {
            reporter.info(format!(
                "all rows of the table are read: what was written leads to {}, and the query has {now} now, so \
                 that some rows were deleted or came in unseen",
                counted(known, "note")
            ));
            return Ok(None);
        }
    }
    let distinct = shards.iter().filter(|shard| !shard.plan.unchanged).map(Compared::texts).sum();
    let Counted { shards, lengths, sample } =
        count_tokens(root, &inputs, shards, request.tower, cancel).await?;
    let mut plan = lay_out_tasks(request, spec, prepared, shards, parts).await?;
    if let Some(adapt) = &request.adapt {
        let task = adapt::lay_out(adapt, &plan.spec, root, parent.as_ref(), &plan.shards).await?;
        plan.adapt = task.map(Box::new);
    }
    let seconds = started.elapsed().as_secs_f64();
    let notes: u64 = plan.shards.iter().map(|shard| shard.prepared.notes).sum();
    let texts: u64 = plan.shards.iter().map(|shard| shard.texts_to_encode).sum();
    reporter.event(Event::StageFinished {
        stage: Stage::Prepare,
        seconds,
        summary: format!(
            "{} in {}, {} to encode",
            counted(notes, "note"),
            counted(plan.shards.len() as u64, "shard"),
            counted(texts, "text")
        ),
    });
    Ok(Some(Planned { plan, parent, texts: distinct, lengths, sample, seconds }))
}

/// From where the changes of a table are read: of all rows, where notes of the newest snapshot have to be made again.
fn feed_of(
    request: &NotesRequest<'_>,
    parent: Option<&Manifest>,
    lost: &HashSet<String>,
    space: &SpaceId,
) -> Result<Option<FeedRequest>> {
    let corpus = request.input.options;
    let has_history = match corpus.tables.as_slice() {
        [table] => table.changed_at.is_some() || table.format == Some(TableFormat::Delta),
        _ => false,
    };
    if corpus.mode != CorpusMode::Delta || !has_history {
        return Ok(None);
    }
    let purged = parent.and_then(|parent| parent.purged.stamp());
    let made = (
        (&corpus.sql, &corpus.template, &corpus.stored_columns, &corpus.tables, corpus.types),
        (request.chunking, request.shards, space, purged),
    );
    let reading = hash_json(&made)?;
    let since = parent.and_then(|parent| {
        let feed = parent.provenance.measured.get(snapshot::FEED)?;
        let feed: Feed = serde_json::from_value(feed.clone()).ok()?;
        let here = parent.content.space_id == *space;
        let whole = lost.is_empty() && !request.keep_texts;
        (here && whole && feed.reading == reading).then_some(feed)
    });
    Ok(Some(FeedRequest { reading, since }))
}

async fn lay_out_tasks(
    request: &PlanRequest<'_>,
    spec: RunSpec,
    prepared: PrepareOutcome,
    shards: Vec<ShardPlan>,
    parts: PartsSummary,
) -> Result<Plan> {
    let options_id = spec.index.id()?;
    let encode: Vec<EncodeTask> = shards
        .iter()
        .filter(|shard| shard.texts_to_encode > 0)
        .map(|shard| EncodeTask {
            id: encode_task_id(&spec, shard),
            spec: spec.clone(),
            shard: shard.clone(),
            token_limit: None,
        })
        .collect();
    let build: Vec<BuildTask> = shards
        .iter()
        .filter(|shard| !shard.unchanged)
        .map(|shard| {
            Ok(BuildTask {
                id: build_task_id(&spec, &options_id, shard)?,
                encode: (shard.texts_to_encode > 0).then(|| encode_task_id(&spec, shard)),
                spec: spec.clone(),
                shard: shard.clone(),
            })
        })
        .collect::<Result<_>>()?;
    let frozen = request.notes.root.size(&layout::calibration(&options_id, &spec.space_id)).await?;
    let calibrate = (frozen.is_none() && !build.is_empty()).then(|| CalibrateTask {
        id: format!("calibrate-{options_id}-{}", spec.space_id),
        spec: spec.clone(),
    });
    Ok(Plan {
        version: PLAN_VERSION,
        created_at: chrono::Utc::now().to_rfc3339(),
        sql: Digest256::of(request.notes.input.options.sql.as_bytes()),
        prepared,
        gates: request.gates.clone(),
        shards,
        parts,
        encode,
        calibrate,
        adapt: None,
        build,
        backfill: None,
        spec,
    })
}
