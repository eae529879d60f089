//! The comparison of prepared notes with the parent snapshot and with every stored part.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;

use super::envelope::{NoteChanges, ShardPlan};
use super::live::{LiveRows, PartsSummary};
use super::on_cores::on_cores;
use super::parent::{Comparison, ParentNotes, notes_of};
use crate::corpus::{CorpusMode, PreparedShard};
use crate::embedding;
use crate::error::Result;
use crate::observe::Reporter;
use crate::stage::located;
use crate::stage::vectors::{Places, find_in_parts};
use crate::store::{FileRef, layout};
use crate::types::{Cancel, Digest256, Hasher256, NoteId, TextHash, shard_of};

/// Digest of everything in a full corpus that decides a shard: equal means nothing to do.
pub(crate) fn source_digest(prepared: &PreparedShard) -> Digest256 {
    source_of(prepared.content, prepared.columns)
}

/// [`source_digest`] of a shard whose two digests are these.
pub(crate) fn source_of(content: Digest256, columns: Digest256) -> Digest256 {
    let mut hasher = Hasher256::new();
    hasher.field(content.0).field(columns.0);
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

/// What the comparison with the parent says of a shard.
struct One {
    plan: ShardPlan,
    /// The texts that the parent's shard does not have, in first-seen order.
    missing: Vec<TextHash>,
    live: LiveRows,
    /// The id of a note, where notes were read.
    first: Option<NoteId>,
}

/// Compares every shard, looks for missing texts in all parts, and chooses the parts to compact.
pub(super) async fn compare_all(
    comparison: &Arc<Comparison>,
    prepared: &[PreparedShard],
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<(Vec<Compared>, PartsSummary)> {
    let (root, spec) = (&comparison.root, &comparison.spec);
    let resharded = Arc::new(comparison.resharded().await?);
    let mut shards = Vec::with_capacity(prepared.len());
    let mut wanted = HashSet::new();
    let mut parts = embedding::list_parts(root, &spec.space_id, None).await?;
    // What the parent names is there as long as the parent is: take a text from there rather than from a part that a
    // gc may be about to collect.
    let named = FileRef::paths(comparison.parent.iter().flat_map(|p| &p.content.parts));
    parts.sort_by_key(|part| !named.contains(part.file.path.as_str()));
    let with = (Arc::clone(comparison), resharded, Arc::clone(reporter), cancel.clone());
    let all = on_cores(prepared.to_vec(), move |shard| {
        let (comparison, resharded, reporter, cancel) = with.clone();
        async move {
            cancel.check()?;
            let resharded = Option::as_ref(&resharded);
            compare_one(&comparison, &shard, resharded, &*reporter).await
        }
    });
    let (mut live, mut first) = (LiveRows::default(), None);
    for one in all.await? {
        if !parts.is_empty() {
            wanted.extend(one.missing.iter().copied());
        }
        live.merge(one.live);
        first = first.or(one.first);
        shards.push((one.plan, one.missing));
    }
    if let Some(note) = &first {
        comparison.refuse_other_ids(note).await?;
    }
    // One pass over every part's hashes for what the parent does not hold: texts that moved between notes
    // or shards, came back, or were encoded by a run that did not finish.
    let elsewhere = find_in_parts(root, &parts, &wanted).await?;
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
    let summary = choose_compaction(comparison, &parts, live, &mut compared).await?;
    Ok((compared, summary))
}

/// Where something changes anyway, parts of which few rows are live are compacted by every shard that needs them.
async fn choose_compaction(
    comparison: &Comparison,
    parts: &[embedding::PartReceipt],
    mut live: LiveRows,
    compared: &mut [Compared],
) -> Result<PartsSummary> {
    if compared.iter().all(|shard| shard.plan.unchanged) {
        return Ok(PartsSummary::default());
    }
    for shard in compared.iter().filter(|shard| shard.plan.unchanged) {
        if let Some(old) = comparison.shard(shard.plan.prepared.shard) {
            let ids = comparison.inputs.ids(&comparison.root, old).await?;
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

/// Compares a shard with the parent's.
async fn compare_one(
    comparison: &Comparison,
    shard: &PreparedShard,
    resharded: Option<&ParentNotes>,
    reporter: &dyn Reporter,
) -> Result<One> {
    let spec = &comparison.spec;
    let (mut live, mut first) = (LiveRows::default(), None);
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
    if let Some(old) = parent_shard.filter(|old| comparison.is_reusable(old)) {
        let same = match spec.mode {
            CorpusMode::Full => old.source == Some(source_digest(shard)),
            CorpusMode::Delta => shard.rows == 0,
        };
        if same {
            plan.unchanged = true;
            plan.notes.unchanged = old.notes;
            plan.texts_from_parent = old.vectors;
            return Ok(One { plan, missing: Vec::new(), live, first });
        }
    }
    let parent_ids = comparison.ids(parent_shard, reporter).await?;
    let mut places = Places::new();
    if let Some((ids, old)) =
        parent_ids.as_ref().zip(parent_shard).filter(|_| comparison.same_space())
    {
        let rows = ids.rows.iter().filter(|row| comparison.has(&row.place.part));
        places.extend(rows.map(|row| (row.text_hash, row.place.clone())));
        plan.parent = Some(comparison.parent_shard(old));
    }
    let old_notes = parent_ids.as_ref().map(notes_of);
    let old = |note: &NoteId| old_notes.as_ref().or(resharded).and_then(|notes| notes.get(note));
    let mut batches = comparison.inputs.prepared(&comparison.root, shard).await?;
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
    while let Some(batch) = batches.try_next().await? {
        if first.is_none() {
            first = batch.rows.first().map(|row| row.note_id.clone());
        }
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
    Ok(One { plan, missing, live, first })
}
