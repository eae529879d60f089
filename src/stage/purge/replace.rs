//! The newest snapshot again, without the notes: parts copied, indexes rebuilt, ids files rewritten.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::target::Target;
use crate::corpus::{DigestRow, ShardDigest};
use crate::embedding::{self, Fate, PartReceipt, Rewritten};
use crate::error::{Error, ErrorKind, Result, ResultExt, found, unless};
use crate::index::{BuildReport, Calibration, IndexOptions};
use crate::snapshot::{Content, Manifest, ShardContent};
use crate::stage::build::IndexJob;
use crate::stage::ids::{Ids, Place, take_rows};
use crate::stage::plan::source_of;
use crate::store::layout::{self, Key};
use crate::store::{FileRef, Listed, Root};
use crate::types::{Cancel, Digest256, NoteId, TextHash};

/// Parts that were copied: old key -> what came of it.
pub(super) type Parts = BTreeMap<String, Rewritten>;

/// Copies every part among `doomed` that has a receipt, so that no other note has to be encoded again. `shared` are
/// texts that a note which stays has as well: their vectors stay, under its name. A damaged part that `newest` does not
/// need is not copied: it goes, and a text that somebody misses is encoded again.
pub(super) async fn parts(
    root: &Root,
    newest: Option<&Manifest>,
    objects: &[Listed],
    doomed: &BTreeSet<String>,
    target: &Target,
    shared: &HashMap<TextHash, NoteId>,
    cancel: &Cancel,
) -> Result<Parts> {
    let fate = |note: &str, hash: &TextHash| {
        if target.hashes.contains(hash) {
            Fate::Drop
        } else if !target.notes.contains(note) {
            Fate::Keep
        } else {
            shared.get(hash).map_or(Fate::Drop, |other| Fate::For(other.clone()))
        }
    };
    let needed = FileRef::paths(newest.iter().flat_map(|newest| &newest.content.parts));
    let mut parts = Parts::new();
    for receipt in objects {
        let key = receipt.key.as_str();
        let Some(Key::PartReceipt { space, .. }) = layout::parse(key) else { continue };
        cancel.check()?;
        let receipt = PartReceipt::read(root, &space, key).await;
        let Some(receipt) = found(receipt)? else { continue };
        if doomed.contains(&receipt.file.path) {
            let spare = |error: &Error| {
                error.kind() == ErrorKind::Corrupt && !needed.contains(receipt.file.path.as_str())
            };
            let rewritten = unless(embedding::rewrite_part(root, &receipt, &fate).await, spare)?;
            parts.extend(rewritten.map(|rewritten| (receipt.file.path, rewritten)));
        }
    }
    Ok(parts)
}

/// The content of `newest` without anything that is doomed, and by shard what was measured on the indexes that were
/// built for it.
pub(super) async fn content(
    root: &Root,
    newest: &Manifest,
    doomed: &BTreeSet<String>,
    parts: &Parts,
    target: &Target,
    cancel: &Cancel,
) -> Result<(Content, BTreeMap<u32, BuildReport>)> {
    let old = &newest.content;
    let (mut content, mut reports) = (old.clone(), BTreeMap::new());
    let mut files: BTreeMap<String, FileRef> =
        old.parts.iter().map(|part| (part.path.clone(), part.clone())).collect();
    for part in parts.values().filter_map(|rewritten| rewritten.part.as_ref()) {
        files.insert(part.file.path.clone(), part.file.clone());
    }
    for (at, shard) in old.shards.iter().enumerate() {
        cancel.check()?;
        let touched = shard.files().any(|file| doomed.contains(&file.path))
            || shard.parts.iter().any(|part| doomed.contains(part));
        if touched {
            let (new, report) =
                self::shard(root, old, shard, doomed, parts, target, cancel).await?;
            reports.extend(report.map(|report| (new.shard, report)));
            content.shards[at] = new;
        }
    }
    for tower in &mut content.query_towers {
        // The next run adapts it again, to what is left.
        if let Some(adapted) = &tower.adapted
            && adapted.files.iter().any(|file| doomed.contains(&file.path))
        {
            *tower = (*adapted.base).clone();
        }
    }
    let used: BTreeSet<&String> = content.shards.iter().flat_map(|shard| &shard.parts).collect();
    content.parts = used
        .into_iter()
        .map(|part| {
            files.get(part).cloned().ok_or_else(|| {
                Error::corrupt(format!("the newest manifest does not list its part {part}"))
            })
        })
        .collect::<Result<_>>()?;
    content.notes = content.shards.iter().map(|shard| shard.notes).sum();
    content.vectors = content.shards.iter().map(|shard| shard.vectors).sum();
    Ok((content, reports))
}

async fn shard(
    root: &Root,
    content: &Content,
    old: &ShardContent,
    doomed: &BTreeSet<String>,
    parts: &Parts,
    target: &Target,
    cancel: &Cancel,
) -> Result<(ShardContent, Option<BuildReport>)> {
    let before = Ids::of_shard(root, old).await?;
    let rows = before.rows.len();
    // What it was made from stays known where the rows tell it: a note that could not be encoded is not among them.
    let known = match old.source {
        Some(source) => source_of_rows(&before)? == source,
        None => false,
    };
    let ids = without(before, parts, target)?;
    let mut new = old.clone();
    let options_id = &content.index.options_id;
    let notes: HashSet<&NoteId> = ids.rows.iter().map(|row| &row.note_id).collect();
    let used: BTreeSet<&str> = ids.rows.iter().map(|row| &*row.place.part).collect();
    new.notes = notes.len() as u64;
    new.vectors = ids.rows.len() as u64;
    new.parts = used.into_iter().map(str::to_owned).collect();
    new.ids = ids.write(root, options_id, old.shard).await?;
    // One base of what counts: a removed row may be a purged note's.
    (new.removed, new.deltas) = (None, Vec::new());
    if ids.rows.len() != rows {
        // Else the next full run compares note by note.
        new.source = if known { Some(source_of_rows(&ids)?) } else { None };
    }
    let index_doomed = !old.deltas.is_empty()
        || old.removed.is_some()
        || [&old.index, &old.sidecar].into_iter().flatten().any(|file| doomed.contains(&file.path));
    if ids.rows.is_empty() {
        (new.index, new.sidecar, new.orphans) = (None, None, 0);
        new.canaries.clear();
        return Ok((new, None));
    }
    if ids.rows.len() == rows && !index_doomed {
        return Ok((new, None));
    }
    let options: IndexOptions = serde_json::from_value(content.index.options.clone())
        .or_error(ErrorKind::Corrupt, || "the manifest's index options")?;
    let calibration: Calibration = serde_json::from_value(content.index.calibration.clone())
        .or_error(ErrorKind::Corrupt, || "the manifest's quantisation scale")?;
    let job = IndexJob {
        space: &content.space_id,
        dimensions: content.space.dimensions as usize,
        options: &options,
        options_id,
        calibration: &calibration,
        shard: old.shard,
    };
    let mut built = job.build(root, &ids.rows, cancel).await?;
    if doomed.contains(&built.index.path) || doomed.contains(&built.sidecar.path) {
        // An index of just these notes that was made from one with the purged notes and may hold their vectors.
        root.delete(&job.receipt(&ids.rows)).await?;
        built = job.build(root, &ids.rows, cancel).await?;
    }
    if built.report.orphans > 0 {
        return Err(Error::internal(format!(
            "shard {} has {} unreachable vectors after it was built without the notes",
            old.shard, built.report.orphans
        )));
    }
    (new.index, new.sidecar, new.orphans) = (Some(built.index), Some(built.sidecar), 0);
    new.canaries = built.canaries;
    Ok((new, Some(built.report)))
}

/// What a full corpus of just these rows would have as the digest of the shard.
fn source_of_rows(ids: &Ids) -> Result<Digest256> {
    let mut order: Vec<u32> = (0..ids.rows.len() as u32).collect();
    let row = |at: u32| &ids.rows[at as usize];
    order.sort_unstable_by(|&a, &b| {
        (&row(a).note_id, row(a).chunk).cmp(&(&row(b).note_id, row(b).chunk))
    });
    let notes: Vec<String> = order.iter().map(|&at| row(at).note_id.to_string()).collect();
    let stored = take_rows(&ids.stored, order.clone())?;
    let mut digest = ShardDigest::new(ids.stored.schema().fields());
    let rows = order.iter().zip(&notes).map(|(&at, note)| DigestRow {
        note,
        chunk: row(at).chunk,
        text_hash: &row(at).text_hash.0,
        deleted: false,
    });
    digest.push(rows, stored.columns())?;
    let (content, columns) = digest.finish();
    Ok(source_of(content, columns))
}

/// The rows of every other note, each with the place where its vector lies now.
fn without(ids: Ids, parts: &Parts, target: &Target) -> Result<Ids> {
    let mut names: HashMap<&str, Arc<str>> = HashMap::new();
    let mut keep: Vec<u32> = Vec::with_capacity(ids.rows.len());
    let mut rows = Vec::with_capacity(ids.rows.len());
    for (at, mut row) in ids.rows.into_iter().enumerate() {
        if target.notes.contains(&row.note_id.to_string()) {
            continue;
        }
        if let Some((old, moved)) = parts.get_key_value(&*row.place.part) {
            let to = moved.rows.get(row.place.row as usize).copied().flatten();
            let (Some(part), Some(to)) = (&moved.part, to) else {
                return Err(Error::corrupt(format!(
                    "row {} of {old} belongs to note {}, which stays, but went: its text hash differs from the part's",
                    row.place.row, row.note_id
                )));
            };
            let name = names.entry(old).or_insert_with(|| Arc::from(part.file.path.as_str()));
            row.place = Place { part: Arc::clone(name), row: to };
        }
        keep.push(at as u32);
        rows.push(row);
    }
    let stored = take_rows(&ids.stored, keep)?;
    Ok(Ids { rows, stored })
}
