//! The comparison of prepared notes with the parent snapshot and with every stored part.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;

use super::calibrate;
use super::ids::Ids;
use super::live::{LiveRows, PartsSummary};
use super::located::{self, Places};
use super::plan::{NoteChanges, ParentIndex, ParentShard, RunSpec, ShardPlan};
use super::publish::recall_by_shard;
use super::segments::is_damage;
use crate::corpus::{CorpusMode, KnownText, PreparedReader, PreparedShard};
use crate::embedding;
use crate::error::{Error, Result};
use crate::index::{Calibration, Recall};
use crate::observe::{Event, Reporter};
use crate::snapshot::{self, Manifest, ShardContent, removed};
use crate::store::{FileRef, Root, layout};
use crate::types::{Cancel, Digest256, Hasher256, NoteId, SpaceId, TextHash, shard_of};

/// Corpora of so many texts keep them all in their prepared files; of larger ones about so many texts are kept beside
/// those that changed, for the checks that encode a sample again.
const KEPT_TEXTS: usize = 2048;

/// The texts whose vectors the parent has in the space `space`: nobody will need to read them, except a sample.
///
/// Memory: 32 bytes a text. A parent whose ids cannot be read knows nothing.
pub(super) async fn known_texts(
    root: &Root,
    parent: Option<&Manifest>,
    space: &SpaceId,
) -> Result<Option<KnownText>> {
    let Some(content) = parent.map(|parent| &parent.content).filter(|c| c.space_id == *space)
    else {
        return Ok(None);
    };
    let mut hashes = Vec::new();
    for segment in content.shards.iter().flat_map(ShardContent::segments) {
        match text_hashes(root, &segment).await {
            Ok(found) => hashes.extend(found),
            Err(error) if is_damage(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    hashes.sort_unstable();
    hashes.dedup();
    if hashes.len() <= KEPT_TEXTS {
        return Ok(None);
    }
    // The sampled checks take the smallest hashes: these are the texts to keep.
    let first_left_out = hashes.split_off(KEPT_TEXTS);
    Ok(Some(Arc::new(move |hash| first_left_out.binary_search(hash).is_ok())))
}

/// Text hashes of a segment's live rows.
async fn text_hashes(root: &Root, segment: &snapshot::Segment) -> Result<Vec<TextHash>> {
    let gone = removed::read(root, segment.removed.as_ref()).await?;
    let mut batches = snapshot::ids::read(root, &segment.ids, &["key", "text_hash"]).await?;
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let hashes = snapshot::ids::text_hashes(&batch)?;
        for (key, hash) in snapshot::ids::keys(&batch)?.iter().zip(hashes) {
            if gone.binary_search(key).is_err() {
                found.push(Digest256(*hash));
            }
        }
    }
    Ok(found)
}

/// A delta names only what changed, so whatever needs every note's text needs a full run.
pub(super) fn refuse_impossible_delta(spec: &RunSpec, parent: Option<&Manifest>) -> Result<()> {
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

/// Refuses a corpus whose ids are of another type than the newest snapshot's: every note would be another note, and no
/// gate counts that, because as many come as go.
pub(super) async fn refuse_other_ids(
    root: &Root,
    prepared: &[PreparedShard],
    parent: Option<&Manifest>,
) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    let Some(shard) = prepared.iter().find(|shard| shard.rows > 0) else { return Ok(()) };
    let first = PreparedReader::open(root, shard).await?.next().await?;
    let Some(now) = first.and_then(|batch| batch.rows.into_iter().next()) else { return Ok(()) };
    let Some(before) = first_id(root, parent).await? else { return Ok(()) };
    let (was, is) = (before.type_name(), now.note_id.type_name());
    if was == is {
        return Ok(());
    }
    let wanted = if matches!(before, NoteId::Int(_)) { "BIGINT" } else { "VARCHAR" };
    Err(Error::input(format!(
        "note_id is {is}, but it was {was} in snapshot {}: every note would become another note. Where the data has changed \
         by mistake, mend it; else return CAST(note_id AS {wanted}) in corpus.sql. Ids that are really meant to be {is} \
         from now on need a publish.root of their own",
        parent.number
    )))
}

/// The id of some note of a snapshot; what is damaged, and will be made anew, is passed over.
async fn first_id(root: &Root, parent: &Manifest) -> Result<Option<NoteId>> {
    for segment in parent.content.shards.iter().flat_map(ShardContent::segments) {
        match first_id_of(root, &segment).await {
            Ok(None) => {}
            Err(error) if is_damage(&error) => {}
            found => return found,
        }
    }
    Ok(None)
}

async fn first_id_of(root: &Root, segment: &snapshot::Segment) -> Result<Option<NoteId>> {
    let mut batches = snapshot::ids::read(root, &segment.ids, &["note_id"]).await?;
    while let Some(batch) = batches.try_next().await? {
        if let Some(note) = snapshot::ids::notes(&batch)?.iter().flatten().next() {
            return note.parse().map(Some);
        }
    }
    Ok(None)
}

/// What of the parent may be taken over.
pub(super) struct Comparison<'a> {
    parent: Option<&'a Manifest>,
    /// Same space, options, columns and shard count: an unchanged shard needs no task.
    shards_reusable: bool,
    same_shards: bool,
    /// The index of a changed shard may build upon the parent's.
    updatable: bool,
    recalls: BTreeMap<u32, Recall>,
    recall_min: f64,
}

impl<'a> Comparison<'a> {
    pub async fn new(
        root: &Root,
        spec: &RunSpec,
        parent: Option<&'a Manifest>,
        recall_min: f64,
    ) -> Result<Self> {
        let options_id = spec.index.id()?;
        let content = parent.map(|parent| &parent.content);
        let same_shards = content.is_some_and(|p| p.shard_count == spec.shard_count);
        let shards_reusable = same_shards
            && content.is_some_and(|p| {
                p.space_id == spec.space_id
                    && p.index.options_id == options_id
                    && p.stored_columns == spec.stored_columns
            });
        let mut updatable = false;
        if let Some(content) = content.filter(|_| shards_reusable) {
            let key = layout::calibration(&options_id, &spec.space_id);
            if root.size(&key).await?.is_some() {
                let frozen = calibrate::frozen(root, &spec.index, &spec.space_id).await?;
                let theirs = serde_json::from_value(content.index.calibration.clone());
                updatable = theirs.is_ok_and(|theirs: Calibration| theirs.scale == frozen.scale);
            }
        }
        let recalls = parent.map(recall_by_shard).unwrap_or_default();
        Ok(Self { parent, shards_reusable, same_shards, updatable, recalls, recall_min })
    }

    fn space_is(&self, spec: &RunSpec) -> bool {
        self.parent.is_some_and(|p| p.content.space_id == spec.space_id)
    }

    fn shard(&self, number: u32) -> Option<&'a ShardContent> {
        self.parent
            .filter(|_| self.same_shards)
            .and_then(|parent| parent.content.shards.get(number as usize))
    }

    fn parent_shard(&self, shard: &ShardContent) -> ParentShard {
        let parts: Vec<FileRef> = self
            .parent
            .iter()
            .flat_map(|parent| &parent.content.parts)
            .filter(|part| shard.parts.contains(&part.path))
            .cloned()
            .collect();
        let index = self.updatable.then(|| ParentIndex {
            recall: self.recalls.get(&shard.shard).copied(),
            recall_min: self.recall_min,
        });
        ParentShard { shard: shard.clone(), parts, compact: Vec::new(), index }
    }
}

/// Digest of everything in a full corpus that decides a shard: equal means nothing to do.
pub(crate) fn source_digest(prepared: &PreparedShard) -> Digest256 {
    let mut hasher = Hasher256::new();
    hasher.field(prepared.content.0).field(prepared.columns.0);
    hasher.finish()
}

/// A shard's plan and the texts that no part holds.
pub(super) struct Compared {
    pub plan: ShardPlan,
    pub missing: HashSet<TextHash>,
}

impl Compared {
    /// Distinct texts, stored and missing.
    pub fn texts(&self) -> u64 {
        let plan = &self.plan;
        plan.texts_from_parent + plan.texts_from_elsewhere + plan.texts_to_encode
    }
}

/// Compares every shard, looks for missing texts in all parts, and chooses the parts to compact.
pub(super) async fn compare_all(
    root: &Root,
    spec: &RunSpec,
    prepared: &[PreparedShard],
    comparison: &Comparison<'_>,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<(Vec<Compared>, PartsSummary)> {
    let resharded = match comparison.parent {
        Some(parent) if !comparison.same_shards => Some(all_notes(root, parent).await?),
        _ => None,
    };
    let mut shards = Vec::with_capacity(prepared.len());
    let mut wanted = HashSet::new();
    let mut parts = embedding::list_parts(root, &spec.space_id, None).await?;
    // What the parent names is there as long as the parent is: take a text from there rather than from a part that a
    // gc may be about to collect.
    let named: HashSet<&str> = comparison
        .parent
        .iter()
        .flat_map(|parent| &parent.content.parts)
        .map(|part| part.path.as_str())
        .collect();
    parts.sort_by_key(|part| !named.contains(part.file.path.as_str()));
    let mut live = LiveRows::default();
    for shard in prepared {
        cancel.check()?;
        let (plan, missing) =
            compare_one(root, spec, shard, comparison, resharded.as_ref(), &mut live, reporter)
                .await?;
        if !parts.is_empty() {
            wanted.extend(missing.iter().copied());
        }
        shards.push((plan, missing));
    }
    // One pass over every part's hashes for what the parent does not hold: texts that moved between notes
    // or shards, came back, or were encoded by a run that did not finish.
    let elsewhere = located::find_in_parts(root, &parts, &wanted).await?;
    let mut compared = Vec::with_capacity(shards.len());
    for (mut plan, missing) in shards {
        let mut places = Places::new();
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
        plan.texts_from_elsewhere = places.len() as u64;
        if !places.is_empty() {
            places.values().for_each(|place| live.add(place));
            let key = layout::located(&spec.run, plan.prepared.shard);
            plan.located = Some(located::write(root, &key, &places).await?);
        }
        compared.push(Compared { plan, missing: still.into_iter().collect() });
    }
    let summary = choose_compaction(root, comparison, &parts, live, &mut compared).await?;
    Ok((compared, summary))
}

/// Where something changes anyway, parts of which few rows are live are compacted by every shard that needs them.
async fn choose_compaction(
    root: &Root,
    comparison: &Comparison<'_>,
    parts: &[embedding::PartReceipt],
    mut live: LiveRows,
    compared: &mut [Compared],
) -> Result<PartsSummary> {
    if compared.iter().all(|shard| shard.plan.unchanged) {
        return Ok(PartsSummary::default());
    }
    for shard in compared.iter().filter(|shard| shard.plan.unchanged) {
        if let Some(old) = comparison.shard(shard.plan.prepared.shard) {
            let ids = Ids::of_shard(root, old).await?;
            ids.rows.iter().for_each(|row| live.add(&row.place));
        }
    }
    let (sparse, mut summary) = live.sparse(parts);
    // Without the parent's shards to take rows from, the parts stay as they are for a day.
    let may = compared.iter().all(|shard| shard.plan.unchanged || shard.plan.parent.is_some());
    if !may {
        summary.compacted = 0;
        return Ok(summary);
    }
    for shard in compared.iter_mut().filter(|_| !sparse.is_empty()) {
        let plan = &mut shard.plan;
        if plan.unchanged {
            let Some(old) = comparison.shard(plan.prepared.shard) else { continue };
            if !old.parts.iter().any(|part| sparse.binary_search(part).is_ok()) {
                continue;
            }
            plan.unchanged = false;
            plan.parent = Some(comparison.parent_shard(old));
        }
        if let Some(parent) = &mut plan.parent {
            parent.compact.clone_from(&sparse);
        }
    }
    Ok(summary)
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

async fn all_notes(root: &Root, parent: &Manifest) -> Result<ParentNotes> {
    let mut notes = ParentNotes::new();
    for shard in &parent.content.shards {
        notes.extend(notes_of(&Ids::of_shard(root, shard).await?));
    }
    Ok(notes)
}

/// The rows of the parent's shard; `None` where there is none or, in full mode and with a warning, where its files are
/// missing or damaged.
async fn parent_ids(
    root: &Root,
    spec: &RunSpec,
    parent: Option<&ShardContent>,
    reporter: &dyn Reporter,
) -> Result<Option<Ids>> {
    let Some(old) = parent else { return Ok(None) };
    match Ids::of_shard(root, old).await {
        Ok(ids) => Ok(Some(ids)),
        Err(error) if is_damage(&error) && spec.mode == CorpusMode::Full => {
            reporter.event(Event::Warning {
                message: format!(
                    "shard {} is made anew, its parent cannot be read: {error}",
                    old.shard
                ),
            });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The shard's plan and the texts that the parent's shard does not have, in first-seen order.
async fn compare_one(
    root: &Root,
    spec: &RunSpec,
    shard: &PreparedShard,
    comparison: &Comparison<'_>,
    resharded: Option<&ParentNotes>,
    live: &mut LiveRows,
    reporter: &dyn Reporter,
) -> Result<(ShardPlan, Vec<TextHash>)> {
    let mut plan = ShardPlan {
        prepared: shard.clone(),
        parent: None,
        located: None,
        unchanged: false,
        notes: NoteChanges::default(),
        texts_from_parent: 0,
        texts_from_elsewhere: 0,
        texts_to_encode: 0,
        tokens_to_encode: 0,
        texts_truncated: 0,
        padding_avoided: 0,
        missing: Hasher256::new().finish(),
    };
    let parent_shard = comparison.shard(shard.shard);
    if let Some(old) = parent_shard.filter(|_| comparison.shards_reusable) {
        let same = match spec.mode {
            CorpusMode::Full => old.source == Some(source_digest(shard)),
            CorpusMode::Delta => shard.rows == 0,
        };
        if same {
            plan.unchanged = true;
            plan.notes.unchanged = old.notes;
            plan.texts_from_parent = old.vectors;
            return Ok((plan, Vec::new()));
        }
    }
    let parent_ids = parent_ids(root, spec, parent_shard, reporter).await?;
    let mut places = Places::new();
    if let Some((ids, old)) =
        parent_ids.as_ref().zip(parent_shard).filter(|_| comparison.space_is(spec))
    {
        places.extend(ids.rows.iter().map(|row| (row.text_hash, row.place.clone())));
        plan.parent = Some(comparison.parent_shard(old));
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
            if needed.insert(row.text_hash) {
                match places.get(&row.text_hash) {
                    None => missing.push(row.text_hash),
                    Some(place) => {
                        plan.texts_from_parent += 1;
                        live.add(place);
                    }
                }
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
        CorpusMode::Delta => {
            plan.notes.unchanged += old_total - seen_old;
            // What the delta does not name stays; a few that it replaces count too, which only delays compaction.
            places.values().for_each(|place| live.add(place));
        }
    }
    Ok((plan, missing))
}
