//! Stage `prepare`: one DataFusion job over the corpus, then the comparison with what is stored, then the plan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::chunker::token_chunker;
use super::ids::Ids;
use super::located::{self, Places};
use super::plan::{
    BuildTask, CalibrateTask, EncodeTask, NoteChanges, PLAN_VERSION, Plan, RunSpec, ShardPlan,
    absolute_tower, build_task_id, encode_task_id,
};
use crate::corpus::{
    self, CorpusMode, CorpusOptions, Exclude, PrepareOutcome, PrepareRequest, PreparedReader,
    PreparedShard,
};
use crate::embedding;
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::snapshot::{self, Content, Manifest};
use crate::stage::{BuildOptions, ChunkingOptions, EncodeOptions, GateOptions, LengthHistogram};
use crate::store::{Root, StorageOptions, layout};
use crate::tower::{Tower, TowerOptions};
use crate::types::{Cancel, Digest256, Hasher256, NoteId, TextHash, shard_of};

/// Neighbours in one padded batch of the ordinary way, to which `padding_avoided` compares.
const ORDINARY_BATCH: usize = 32;

/// What planning needs.
pub struct PlanRequest<'a> {
    /// The corpus.
    pub corpus: &'a CorpusOptions,
    /// How object stores are reached.
    pub storage: &'a StorageOptions,
    /// Folder that relative paths start from.
    pub base_dir: &'a Path,
    /// The tower as configured.
    pub tower_options: &'a TowerOptions,
    /// The same tower, resolved.
    pub tower: &'a Tower,
    /// Chunking of long notes.
    pub chunking: Option<ChunkingOptions>,
    /// Batching and parts.
    pub encode: &'a EncodeOptions,
    /// Index options, sharding and memory.
    pub build: &'a BuildOptions,
    /// Gates.
    pub gates: &'a GateOptions,
    /// The prepared notes, where another plan of the same day has them already: same SQL, template and chunks.
    pub prepared: Option<&'a PrepareOutcome>,
    /// Where everything lies.
    pub root: &'a Root,
    /// Id of this run.
    pub run: &'a str,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: Cancel,
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
    /// Wall time in seconds.
    pub seconds: f64,
}

/// Reads the corpus, compares it with the newest snapshot and with every stored part, and plans the tasks.
pub async fn plan(request: PlanRequest<'_>) -> Result<Planned> {
    let started = Instant::now();
    let (corpus, root, reporter, cancel) =
        (request.corpus, request.root, &request.reporter, &request.cancel);
    let parent = snapshot::newest(root).await?;
    let spec_space = request.tower.space(Digest256::of(corpus.template.as_bytes()));
    let devices = request.encode.devices.len().max(1) as u32;
    let prepare = PrepareRequest {
        options: corpus,
        base_dir: request.base_dir,
        shard_count: request
            .build
            .shards
            .or_else(|| parent.as_ref().map(|parent| parent.content.shard_count)),
        default_shards: 4 * devices,
        chunker: request.chunking.map(|options| {
            let tokenizer = request.tower.tokenizer().clone();
            token_chunker(tokenizer, options)
        }),
        exclude: parent.as_ref().and_then(excluded_by),
        root,
        storage: request.storage,
        run: request.run,
        reporter: Arc::clone(reporter),
        cancel: cancel.clone(),
    };
    let prepared = match request.prepared {
        Some(prepared) => prepared.clone(),
        None => corpus::prepare(prepare).await?,
    };
    if prepared.excluded > 0 && request.prepared.is_none() {
        let message = format!(
            "the corpus still returns {} purged notes; they are left out: delete them at the source, or bring them \
             back with `scalingnote purge --lift`",
            prepared.excluded
        );
        reporter.event(Event::Warning { message });
    }
    let spec = RunSpec {
        run: request.run.to_owned(),
        tower: absolute_tower(request.tower_options, request.base_dir),
        space_id: spec_space.id()?,
        template: spec_space.template,
        space: spec_space,
        encode: request.encode.clone(),
        index: request.build.index(),
        stored_columns: corpus.stored_columns.clone(),
        mode: corpus.mode,
        shard_count: prepared.shards.len() as u32,
        parent: parent.as_ref().map(|parent| parent.number),
    };
    refuse_impossible_delta(&spec, parent.as_ref())?;
    let comparison = Comparison::new(&spec, parent.as_ref().map(|parent| &parent.content))?;
    let mut shards = compare_all(root, &spec, &prepared.shards, &comparison, cancel).await?;
    let mut lengths = BTreeMap::new();
    for shard in &mut shards {
        cancel.check()?;
        count_tokens(root, &mut shard.plan, &shard.missing, request.tower, &mut lengths).await?;
    }
    let distinct = shards.iter().map(|shard| shard.texts).sum();
    let shards: Vec<ShardPlan> = shards.into_iter().map(|shard| shard.plan).collect();
    let plan = lay_out_tasks(&request, spec, prepared, shards, parent.as_ref()).await?;
    let seconds = started.elapsed().as_secs_f64();
    let notes: u64 = plan.shards.iter().map(|shard| shard.prepared.notes).sum();
    let texts: u64 = plan.shards.iter().map(|shard| shard.texts_to_encode).sum();
    reporter.event(Event::StageFinished {
        stage: Stage::Prepare,
        seconds,
        summary: format!("{notes} notes in {} shards, {texts} texts to encode", plan.shards.len()),
    });
    Ok(Planned { plan, parent, texts: distinct, lengths, seconds })
}

/// Keeps out what the newest snapshot says was purged.
fn excluded_by(parent: &Manifest) -> Option<Exclude> {
    let purged = parent.purged.clone();
    (!purged.is_empty()).then(|| Arc::new(move |note: &NoteId| purged.contains(note)) as Exclude)
}

/// A delta names only what changed, so whatever needs every note's text needs a full run.
fn refuse_impossible_delta(spec: &RunSpec, parent: Option<&Manifest>) -> Result<()> {
    let (CorpusMode::Delta, Some(parent)) = (spec.mode, parent) else { return Ok(()) };
    let obstacle = if parent.content.space_id != spec.space_id {
        "a tower or template other than the newest snapshot's"
    } else if parent.content.shard_count != spec.shard_count {
        "another shard count than the newest snapshot's"
    } else if parent.content.stored_columns != spec.stored_columns {
        "other stored columns than the newest snapshot's"
    } else {
        return Ok(());
    };
    Err(Error::config(format!(
        "a delta cannot be applied with {obstacle}; run once with corpus.mode = \"full\""
    )))
}

/// What of the parent may be taken over.
struct Comparison<'a> {
    parent: Option<&'a Content>,
    /// Same space, options, columns and shard count: an unchanged shard needs no task.
    shards_reusable: bool,
    same_shards: bool,
}

impl<'a> Comparison<'a> {
    fn new(spec: &RunSpec, parent: Option<&'a Content>) -> Result<Self> {
        let options_id = spec.index.id()?;
        let same_shards = parent.is_some_and(|p| p.shard_count == spec.shard_count);
        let shards_reusable = same_shards
            && parent.is_some_and(|p| {
                p.space_id == spec.space_id
                    && p.index.options_id == options_id
                    && p.stored_columns == spec.stored_columns
            });
        Ok(Self { parent, shards_reusable, same_shards })
    }

    fn space_is(&self, spec: &RunSpec) -> bool {
        self.parent.is_some_and(|p| p.space_id == spec.space_id)
    }
}

/// Digest of everything in a full corpus that decides a shard: equal means nothing to do.
pub(crate) fn source_digest(prepared: &PreparedShard) -> Digest256 {
    let mut hasher = Hasher256::new();
    hasher.field(prepared.content.0).field(prepared.columns.0);
    hasher.finish()
}

struct Compared {
    plan: ShardPlan,
    /// Distinct texts, stored and missing.
    texts: u64,
    missing: HashSet<TextHash>,
}

async fn compare_all(
    root: &Root,
    spec: &RunSpec,
    prepared: &[PreparedShard],
    comparison: &Comparison<'_>,
    cancel: &Cancel,
) -> Result<Vec<Compared>> {
    let resharded = match comparison.parent {
        Some(parent) if !comparison.same_shards => Some(all_notes(root, parent).await?),
        _ => None,
    };
    let mut shards = Vec::with_capacity(prepared.len());
    let mut wanted = HashSet::new();
    let parts = embedding::list_parts(root, &spec.space_id, None).await?;
    for shard in prepared {
        cancel.check()?;
        let (plan, places, missing) =
            compare_one(root, spec, shard, comparison, resharded.as_ref()).await?;
        if !parts.is_empty() {
            wanted.extend(missing.iter().copied());
        }
        shards.push((plan, places, missing));
    }
    // One pass over every part's hashes for what the parent does not hold: texts that moved between notes
    // or shards, came back, or were encoded by a run that did not finish.
    let elsewhere = located::find_in_parts(root, &parts, &wanted).await?;
    let mut compared = Vec::with_capacity(shards.len());
    for (mut plan, mut places, missing) in shards {
        let mut still = Vec::new();
        for hash in missing {
            match elsewhere.get(&hash) {
                Some(place) => drop(places.insert(hash, place.clone())),
                None => still.push(hash),
            }
        }
        let mut digest = Hasher256::new();
        for hash in &still {
            digest.raw(hash.0);
        }
        plan.missing = digest.finish();
        plan.texts_to_encode = still.len() as u64;
        if !places.is_empty() && !plan.unchanged {
            let key = layout::located(&spec.run, plan.prepared.shard);
            plan.located = Some(located::write(root, &key, &places).await?);
        }
        let texts = (places.len() + still.len()) as u64;
        compared.push(Compared { plan, texts, missing: still.into_iter().collect() });
    }
    Ok(compared)
}

/// Notes of the parent: id -> chunk -> text hash.
type ParentNotes = HashMap<NoteId, BTreeMap<u32, TextHash>>;

fn notes_of(ids: &Ids) -> ParentNotes {
    let mut notes = ParentNotes::new();
    for row in &ids.rows {
        notes.entry(row.note_id.clone()).or_default().insert(row.chunk, row.text_hash);
    }
    notes
}

async fn all_notes(root: &Root, parent: &Content) -> Result<ParentNotes> {
    let mut notes = ParentNotes::new();
    for shard in &parent.shards {
        notes.extend(notes_of(&Ids::read(root, &shard.ids).await?));
    }
    Ok(notes)
}

/// The shard's plan, the places known from the parent, and the missing texts in first-seen order.
async fn compare_one(
    root: &Root,
    spec: &RunSpec,
    shard: &PreparedShard,
    comparison: &Comparison<'_>,
    resharded: Option<&ParentNotes>,
) -> Result<(ShardPlan, Places, Vec<TextHash>)> {
    let mut plan = ShardPlan {
        prepared: shard.clone(),
        located: None,
        unchanged: false,
        notes: NoteChanges::default(),
        texts_to_encode: 0,
        tokens_to_encode: 0,
        texts_truncated: 0,
        padding_avoided: 0,
        missing: Hasher256::new().finish(),
    };
    let parent_shard = comparison
        .parent
        .filter(|_| comparison.same_shards)
        .and_then(|parent| parent.shards.get(shard.shard as usize));
    if let Some(old) = parent_shard.filter(|_| comparison.shards_reusable) {
        let same = match spec.mode {
            CorpusMode::Full => old.source == Some(source_digest(shard)),
            CorpusMode::Delta => shard.rows == 0,
        };
        if same {
            plan.unchanged = true;
            plan.notes.unchanged = old.notes;
            return Ok((plan, Places::new(), Vec::new()));
        }
    }
    let parent_ids = match parent_shard {
        Some(old) => Some(Ids::read(root, &old.ids).await?),
        None => None,
    };
    let mut places = Places::new();
    if let Some(ids) = parent_ids.as_ref().filter(|_| comparison.space_is(spec)) {
        places.extend(ids.rows.iter().map(|row| (row.text_hash, row.place.clone())));
    }
    let old_notes = parent_ids.as_ref().map(notes_of);
    let old = |note: &NoteId| old_notes.as_ref().or(resharded).and_then(|notes| notes.get(note));
    let mut reader = PreparedReader::open(root, shard).await?;
    let mut needed = HashSet::new();
    let mut missing = Vec::new();
    let mut current: Option<(NoteId, BTreeMap<u32, TextHash>, bool)> = None;
    let mut seen_old = 0;
    let mut settle = |done: Option<(NoteId, BTreeMap<u32, TextHash>, bool)>| {
        let Some((note, chunks, deleted)) = done else { return };
        let before = old(&note);
        seen_old += u64::from(before.is_some());
        match before {
            None if deleted => {}
            Some(_) if deleted => plan.notes.deleted += 1,
            None => plan.notes.new += 1,
            Some(before) if *before == chunks => plan.notes.unchanged += 1,
            Some(_) => plan.notes.changed += 1,
        }
    };
    while let Some(batch) = reader.next().await? {
        for row in batch.rows {
            if current.as_ref().is_none_or(|(note, ..)| *note != row.note_id) {
                settle(current.take());
                current = Some((row.note_id, BTreeMap::new(), row.deleted));
            }
            if row.deleted {
                continue;
            }
            if let Some((_, chunks, _)) = &mut current {
                chunks.insert(row.chunk, row.text_hash);
            }
            if needed.insert(row.text_hash) && !places.contains_key(&row.text_hash) {
                missing.push(row.text_hash);
            }
        }
    }
    settle(current.take());
    let old_total = match (&old_notes, resharded) {
        (Some(notes), _) => notes.len() as u64,
        (None, Some(notes)) => {
            notes.keys().filter(|note| shard_of(note, spec.shard_count) == shard.shard).count()
                as u64
        }
        (None, None) => 0,
    };
    match spec.mode {
        CorpusMode::Full => plan.notes.deleted += old_total - seen_old,
        CorpusMode::Delta => plan.notes.unchanged += old_total - seen_old,
    }
    if spec.mode == CorpusMode::Full {
        places.retain(|hash, _| needed.contains(hash));
    }
    Ok((plan, places, missing))
}

/// Tokenises what will be encoded: exact counts, the length histogram, and the padding that packing avoids.
async fn count_tokens(
    root: &Root,
    plan: &mut ShardPlan,
    missing: &HashSet<TextHash>,
    tower: &Tower,
    lengths: &mut BTreeMap<u32, u64>,
) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut reader = PreparedReader::open(root, &plan.prepared).await?;
    let mut counted = HashSet::new();
    let mut neighbours: Vec<u32> = Vec::with_capacity(ORDINARY_BATCH);
    let mut padding = 0;
    let mut flush = |neighbours: &mut Vec<u32>| {
        let longest = u64::from(neighbours.iter().copied().max().unwrap_or(0));
        let real: u64 = neighbours.iter().map(|&n| u64::from(n)).sum();
        padding += longest * neighbours.len() as u64 - real;
        neighbours.clear();
    };
    while let Some(batch) = reader.next().await? {
        let texts: Vec<String> = batch
            .rows
            .into_iter()
            .filter(|row| !row.deleted && missing.contains(&row.text_hash))
            .filter(|row| counted.insert(row.text_hash))
            .map(|row| row.text)
            .collect();
        let tokenizer = tower.tokenizer().clone();
        // A text that cannot be tokenised is counted as 0 here and quarantined by `encode`.
        let counts: Vec<(u32, bool)> = tokio::task::spawn_blocking(move || {
            texts
                .par_iter()
                .map(|text| match tokenizer.tokenize(text) {
                    Ok(tokens) => (tokens.ids.len() as u32, tokens.truncated),
                    Err(_) => (0, false),
                })
                .collect()
        })
        .await
        .map_err(|cause| Error::internal("tokenising failed").with_source(cause))?;
        for (tokens, truncated) in counts {
            plan.tokens_to_encode += u64::from(tokens);
            plan.texts_truncated += u64::from(truncated);
            *lengths.entry(LengthHistogram::up_to(tokens)).or_default() += 1;
            neighbours.push(tokens);
            if neighbours.len() == ORDINARY_BATCH {
                flush(&mut neighbours);
            }
        }
    }
    flush(&mut neighbours);
    plan.padding_avoided = padding;
    Ok(())
}

async fn lay_out_tasks(
    request: &PlanRequest<'_>,
    spec: RunSpec,
    prepared: PrepareOutcome,
    shards: Vec<ShardPlan>,
    parent: Option<&Manifest>,
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
            let parent_ids = parent
                .filter(|_| spec.mode == CorpusMode::Delta)
                .and_then(|parent| parent.content.shards.get(shard.prepared.shard as usize))
                .map(|shard| shard.ids.clone());
            BuildTask {
                id: build_task_id(&spec, &options_id, shard, parent_ids.as_ref()),
                encode: (shard.texts_to_encode > 0).then(|| encode_task_id(&spec, shard)),
                parent_ids,
                spec: spec.clone(),
                shard: shard.clone(),
            }
        })
        .collect();
    let frozen = request.root.size(&layout::calibration(&options_id, &spec.space_id)).await?;
    let calibrate = (frozen.is_none() && !build.is_empty()).then(|| CalibrateTask {
        id: format!("calibrate-{options_id}-{}", spec.space_id),
        spec: spec.clone(),
    });
    Ok(Plan {
        version: PLAN_VERSION,
        created_at: chrono::Utc::now().to_rfc3339(),
        sql: Digest256::of(request.corpus.sql.as_bytes()),
        prepared,
        gates: request.gates.clone(),
        shards,
        encode,
        calibrate,
        build,
        backfill: None,
        spec,
    })
}
