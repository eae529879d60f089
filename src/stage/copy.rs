//! Copying one snapshot from root to root: what is missing is sent, checked on the way, and the manifest comes last.
//!
//! ```text
//! manifest -> may it be published there? -> per file: there and whole? else hash it, send it, compare
//!          -> receipts and scale, where there are none -> commit
//! ```
//!
//! A file has the same key in both roots, and is compared by its hash where it is there: what an interrupted copy has
//! sent is found by the next one. Which files there are is the manifest's word, so a key that is not a file of an
//! index, a part of this very space or a file of an adapted query tower is refused: nobody's manifest writes anywhere
//! else. What a tower read goes before its weights, so that a purge there finds it. Receipts of parts and indexes go
//! along for the next run of that root, which then encodes and builds nothing again; readers do without.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::adapt::purged_notes;
use super::build::IndexReceipt;
use super::calibration::CalibrateReceipt;
use super::rows;
use super::written::Written;
use crate::embedding::PartReceipt;
use crate::error::{Error, ErrorKind, Result, ResultExt, unless};
use crate::observe::{Event, Reporter, Running, Stage, format};
use crate::snapshot::{self, Adapted, CommitOutcome, Content, Manifest, Provenance, QueryTower};
use crate::store::layout::{self, Key};
use crate::store::receipt::{self, Receipt};
use crate::store::{FileRef, Root, damaged};
use crate::types::{Cancel, Digest256, NoteId};

/// Files in flight.
const FILES: usize = 4;
/// Objects looked up, and receipts copied, at the same time.
const SMALL: usize = 16;

/// Which snapshot goes where.
pub struct CopyRequest<'a> {
    /// The root that has it.
    pub from: &'a Root,
    /// Its number there.
    pub number: u64,
    /// The root that gets it.
    pub to: &'a Root,
    /// Whether it may replace a snapshot of another embedding space.
    pub switch_tower: bool,
    /// Say what would travel, and change nothing.
    pub dry_run: bool,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: Cancel,
}

/// What travelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// True where nothing was changed.
    pub dry_run: bool,
    /// The root that has the snapshot.
    pub from: String,
    /// Its number there.
    pub source: u64,
    /// The root that gets it.
    pub to: String,
    /// Its number there; absent in a dry run.
    pub snapshot: Option<u64>,
    /// Whether the newest snapshot there had this content before.
    pub already: bool,
    /// Names the content.
    pub content_hash: Digest256,
    /// Files that travelled, or would.
    pub sent_files: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Files that were there.
    pub kept_files: u64,
    /// Their bytes.
    pub kept_bytes: u64,
}

/// Copies a snapshot. The caller keeps gc away from both roots.
///
/// # Errors
/// GateRefused where the other root must not serve it: another embedding space without `switch_tower`, a content that
/// was rolled back there, notes that were purged there. Corrupt for a file, of either root, that is not what was
/// published. Conflict where somebody else published meanwhile.
pub async fn copy(request: CopyRequest<'_>) -> Result<CopyReport> {
    let (from, to) = (request.from, request.to);
    let source = snapshot::read(from, request.number).await?;
    let files = files_of(&source.content)?;
    let parent = snapshot::newest(to).await?;
    let mut report = CopyReport {
        dry_run: request.dry_run,
        from: from.uri().to_owned(),
        source: source.number,
        to: to.uri().to_owned(),
        snapshot: None,
        already: false,
        content_hash: source.content_hash,
        sent_files: 0,
        sent_bytes: 0,
        kept_files: files.len() as u64,
        kept_bytes: files.values().map(|file| file.size).sum(),
    };
    if let Some(parent) = parent.as_ref().filter(|it| it.content_hash == source.content_hash) {
        return Ok(CopyReport { already: true, snapshot: Some(parent.number), ..report });
    }
    refuse(&request, parent.as_ref(), &source)?;
    let known: HashMap<&str, &FileRef> =
        parent.iter().flat_map(|it| it.content.files()).map(|file| (&*file.path, file)).collect();
    let new: Vec<&FileRef> =
        files.values().filter(|file| known.get(&*file.path) != Some(file)).collect();
    refuse_purged(&request, parent.as_ref(), &source, &new).await?;

    let missing = missing(&request, files.values(), &new).await?;
    report.sent_files = missing.len() as u64;
    report.sent_bytes = missing.iter().map(|file| file.size).sum();
    report.kept_files -= report.sent_files;
    report.kept_bytes -= report.sent_bytes;
    if request.dry_run {
        return Ok(report);
    }
    send(&request, &missing, report.sent_bytes).await?;
    send_receipts(&request, &source.content, &files).await?;
    report.snapshot = Some(publish(&request, parent.as_ref(), &source).await?);
    Ok(report)
}

/// Every file of a content, by key.
fn files_of(content: &Content) -> Result<BTreeMap<&str, FileRef>> {
    let adapted: BTreeMap<String, &Adapted> =
        content.query_towers.iter().filter_map(named_adapted).collect();
    let mut files = BTreeMap::new();
    for file in content.files() {
        let is_its_own = match layout::parse(&file.path) {
            Some(Key::Part { space, .. }) => space == content.space_id,
            Some(
                Key::Index { options, .. }
                | Key::Sidecar { options, .. }
                | Key::Ids { options, .. }
                | Key::Removed { options, .. },
            ) => options == content.index.options_id,
            Some(
                Key::TowerWeights { tower }
                | Key::TowerConfig { tower }
                | Key::TowerTokenizer { tower }
                | Key::TowerTexts { tower, .. },
            ) => adapted.contains_key(&tower),
            _ => false,
        };
        if !is_its_own {
            return Err(Error::corrupt(format!(
                "the snapshot names {}, which is not a file of its space, indexes and query towers; nothing was copied",
                file.path
            )));
        }
        files.insert(&*file.path, file.clone());
    }
    for (tower, adapted) in adapted {
        // No purge would find it in the other root.
        if !adapted.files.iter().any(|file| texts_of(&file.path).as_ref() == Some(&tower)) {
            return Err(Error::corrupt(format!(
                "the snapshot does not say what its query tower {tower} read; nothing was copied"
            )));
        }
    }
    Ok(files)
}

/// An adapted query tower, with the name of its folder.
fn named_adapted(tower: &QueryTower) -> Option<(String, &Adapted)> {
    Some((tower.fingerprint.short(), tower.adapted.as_ref()?))
}

/// The query tower of which this is what it read.
fn texts_of(key: &str) -> Option<String> {
    match layout::parse(key) {
        Some(Key::TowerTexts { tower, .. }) => Some(tower),
        _ => None,
    }
}

/// Refuses what the newest snapshot of the other root speaks against.
fn refuse(request: &CopyRequest<'_>, parent: Option<&Manifest>, source: &Manifest) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    let to = request.to.uri();
    if parent.blocked.contains(&source.content_hash) {
        return Err(blocked(request, parent.number));
    }
    if parent.content.space_id != source.content.space_id && !request.switch_tower {
        return Err(Error::refused(format!(
            "{to} serves embedding space {}, snapshot {} of {} is of {}: a service that encodes queries itself must change the \
             query tower at the same moment; --switch-tower copies it all the same",
            parent.content.space_id,
            source.number,
            request.from.uri(),
            source.content.space_id
        )));
    }
    Ok(())
}

fn blocked(request: &CopyRequest<'_>, by: u64) -> Error {
    Error::refused(format!(
        "the content of snapshot {} of {} was rolled back in {} (snapshot {by} blocks it); nothing was published",
        request.number,
        request.from.uri(),
        request.to.uri()
    ))
}

/// Refuses files that hold notes which were purged from the other root, and query towers that read such notes.
async fn refuse_purged(
    request: &CopyRequest<'_>,
    parent: Option<&Manifest>,
    source: &Manifest,
    files: &[&FileRef],
) -> Result<()> {
    let purged = parent.map(|parent| &parent.purged).filter(|purged| !purged.is_empty());
    let Some(purged) = purged.filter(|purged| purged.stamp() != source.purged.stamp()) else {
        return Ok(());
    };
    let whose = |file: &&&FileRef| {
        matches!(layout::parse(&file.path), Some(Key::Part { .. } | Key::Ids { .. }))
    };
    let looking = || "looking for notes that were purged from the other root";
    let mut notes = BTreeSet::new();
    for file in files.iter().filter(whose) {
        request.cancel.check()?;
        let object = (&*file.path, file.size);
        let wanted = |note: &NoteId| purged.contains(note);
        let found = rows::notes_in(request.from, object, &Written::default(), &wanted).await;
        notes.extend(found.context(looking)?);
    }
    let new = FileRef::paths(files.iter().copied());
    let towers = source.content.query_towers.iter().filter_map(|tower| tower.adapted.as_ref());
    let towers: Vec<&Adapted> =
        towers.filter(|it| it.files.iter().any(|file| new.contains(&*file.path))).collect();
    let mut read = BTreeSet::new();
    for adapted in towers {
        request.cancel.check()?;
        let found = purged_notes(request.from, &adapted.files, purged).await;
        read.extend(found.context(looking)?);
    }
    // A tower may have read notes that the snapshot no longer has.
    let of = if notes.is_empty() { "read by a query tower of" } else { "of" };
    notes.append(&mut read);
    if notes.is_empty() {
        return Ok(());
    }
    let (were, them) = if notes.len() == 1 { ("was", "it") } else { ("were", "them") };
    Err(Error::refused(format!(
        "{} {of} snapshot {} of {} {were} purged from {}; purge {them} there too, and copy the snapshot that this publishes",
        format::counted(notes.len() as u64, "note"),
        request.number,
        request.from.uri(),
        request.to.uri()
    )))
}

/// The files that the other root lacks. Of those that it has, the ones that its newest snapshot does not name are
/// hashed: nobody has vouched for them.
async fn missing(
    request: &CopyRequest<'_>,
    files: impl Iterator<Item = &FileRef>,
    new: &[&FileRef],
) -> Result<Vec<FileRef>> {
    let new: HashSet<&str> = new.iter().map(|file| &*file.path).collect();
    let looks: Vec<_> =
        files.map(|file| is_missing(request, file, new.contains(&*file.path))).collect();
    let missing = futures::stream::iter(looks).buffered(SMALL).try_collect::<Vec<_>>().await?;
    Ok(missing.into_iter().flatten().collect())
}

async fn is_missing(
    request: &CopyRequest<'_>,
    file: &FileRef,
    is_new: bool,
) -> Result<Option<FileRef>> {
    request.cancel.check()?;
    let to = request.to;
    let whole = match to.size(&file.path).await? {
        None => return Ok(Some(file.clone())),
        Some(size) if size != file.size => false,
        Some(_) if is_new => to.hash(&file.path).await? == (file.sha256, file.size),
        Some(_) => true,
    };
    if whole { Ok(None) } else { Err(damaged(to, &file.path, "it is not what the snapshot names")) }
}

async fn send(request: &CopyRequest<'_>, files: &[FileRef], bytes: u64) -> Result<()> {
    let scratch =
        tempfile::tempdir().or_error(ErrorKind::Resource, || "a folder for files on their way")?;
    let (stage, done) = (Stage::Publish, AtomicU64::new(0));
    let (folder, done) = (scratch.path(), &done);
    let running = Running::begin(&*request.reporter, stage, (bytes, "bytes"), 0);
    // Whatever there is of a tower in the other root, what it read is beside it.
    let (texts, others): (Vec<&FileRef>, Vec<&FileRef>) =
        files.iter().partition(|file| texts_of(&file.path).is_some());
    for round in [texts, others] {
        let sends: Vec<_> = round
            .into_iter()
            .map(|file| async move {
                send_one(request, folder, file).await?;
                let done = done.fetch_add(file.size, Ordering::Relaxed) + file.size;
                request.reporter.event(Event::Progress { stage, done, tokens: 0 });
                Ok::<_, Error>(())
            })
            .collect();
        futures::stream::iter(sends).buffer_unordered(FILES).try_collect::<Vec<()>>().await?;
    }
    let sent = format::counted(files.len() as u64, "file");
    running.end(format!("{sent}, {}", format::bytes(bytes)));
    Ok(())
}

async fn send_one(request: &CopyRequest<'_>, scratch: &Path, file: &FileRef) -> Result<()> {
    request.cancel.check()?;
    let (from, to) = (request.from, request.to);
    let path = from.fetch(file, scratch).await?;
    let sent = to.upload(&file.path, &path).await?;
    if path.starts_with(scratch) {
        // The folder goes anyway; until then it should not hold everything.
        let _ = std::fs::remove_file(&path);
    }
    if sent != *file {
        to.delete(&file.path).await?;
        return Err(damaged(from, &file.path, "it was changed while it was copied"));
    }
    Ok(())
}

/// Receipts, and the frozen scale, where the other root has none. Another scale there stays: a run then rebuilds.
async fn send_receipts(
    request: &CopyRequest<'_>,
    content: &Content,
    files: &BTreeMap<&str, FileRef>,
) -> Result<()> {
    let mut parts = BTreeSet::new();
    let mut indexes = BTreeSet::new();
    for key in files.keys() {
        match layout::parse(key) {
            Some(Key::Part { space, shard, part, .. }) => {
                parts.insert(layout::part_receipt(&space, shard, &part));
            }
            Some(Key::Index { options, shard, index, .. }) => {
                indexes.insert(layout::index_receipt(&options, shard, &index));
            }
            _ => {}
        }
    }
    let there: HashSet<&str> = files.keys().copied().collect();
    for_each(&parts, |key| pass_on::<PartReceipt>(request, key, &there)).await?;
    for_each(&indexes, |key| pass_on::<IndexReceipt>(request, key, &there)).await?;
    let scale = layout::calibration(&content.index.options_id, &content.space_id);
    pass_on::<CalibrateReceipt>(request, &scale, &there).await
}

async fn for_each<'a, F: Future<Output = Result<()>>>(
    keys: &'a BTreeSet<String>,
    pass_on: impl Fn(&'a str) -> F,
) -> Result<()> {
    let all: Vec<_> = keys.iter().map(|key| pass_on(key)).collect();
    futures::stream::iter(all).buffer_unordered(SMALL).try_collect::<Vec<()>>().await?;
    Ok(())
}

async fn pass_on<T: Receipt>(
    request: &CopyRequest<'_>,
    key: &str,
    there: &HashSet<&str>,
) -> Result<()> {
    request.cancel.check()?;
    // One that is gone, or that this release cannot read, is nothing that a reader needs.
    let read = unless(receipt::read::<T>(request.from, key).await, |error| !error.is_retryable());
    let Some(receipt) = read?.flatten() else { return Ok(()) };
    if receipt.files().iter().all(|file| there.contains(&*file.path)) {
        let json = serde_json::to_vec_pretty(&receipt).context(|| "writing a receipt as JSON")?;
        request.to.put_if_absent(key, json.into()).await?;
    }
    Ok(())
}

async fn publish(
    request: &CopyRequest<'_>,
    parent: Option<&Manifest>,
    source: &Manifest,
) -> Result<u64> {
    let command = Provenance {
        created_at: chrono::Utc::now().to_rfc3339(),
        host: snapshot::host_name(),
        program: concat!("scalingnote ", env!("CARGO_PKG_VERSION")).to_owned(),
        run: format!("copy of snapshot {} of {}", source.number, request.from.uri()),
        ..Provenance::default()
    };
    let outcome =
        snapshot::commit_copied(request.to, request.from, parent, source, command).await?;
    match outcome {
        CommitOutcome::Committed(manifest) => Ok(manifest.number),
        CommitOutcome::LostTo(other) => Err(Error::conflict(format!(
            "snapshot {} by {} on {} was published to {} in the meantime; look at it, then copy again",
            other.number,
            other.provenance.run,
            other.provenance.host,
            request.to.uri()
        ))),
        CommitOutcome::Blocked { by } => Err(blocked(request, by)),
    }
}
