//! Purged notes that were stored again: by a plan made beside the purge, a task of an older plan, a run that slept,
//! each of which died before it could take its last write back.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::{PurgeReport, PurgeRequest, Scanned, purge};
use crate::error::{ErrorKind, Result, ResultExt};
use crate::snapshot::{self, Manifest, Purged};
use crate::stage::rows;
use crate::stage::written::Written;
use crate::store::layout::{self, Folder, Key};
use crate::store::{Listed, Root};
use crate::types::{Cancel, NoteId};

/// What is a little older than the tombstones is checked, too.
const SLACK: TimeDelta = TimeDelta::minutes(15);
/// JSON above this size is not a report, plan or receipt.
const MAX_JSON: u64 = 256 << 20;

/// Purged notes that are stored again, and what was looked at for them.
#[derive(Debug, Default)]
pub struct Risen {
    /// Their ids.
    pub notes: Vec<NoteId>,
    /// What was looked at.
    pub scanned: Scanned,
}

/// Looks for notes with a tombstone in what was stored since they were purged; `whole`: in everything.
///
/// # Errors
/// What the store says; Corrupt about the newest manifest.
pub async fn find_risen(root: &Root, whole: bool, cancel: &Cancel) -> Result<Risen> {
    let mut risen = Risen::default();
    let Some(newest) = snapshot::newest(root).await? else { return Ok(risen) };
    if newest.purged.is_empty() {
        return Ok(risen);
    }
    let since = match whole {
        true => None,
        false => snapshot::purged_since(root, &newest).await?.map(|since| since - SLACK),
    };
    let found = find(root, cancel, &newest, since, &mut risen.scanned).await;
    let found = found.context(|| "looking for purged notes that are stored again")?;
    risen.notes.extend(found);
    Ok(risen)
}

/// Purges what [`find_risen`] finds since the notes were purged; those of the request are not looked at. The report's
/// number of notes says how many were found.
///
/// # Errors
/// As [`purge`].
pub async fn purge_again(request: PurgeRequest<'_>) -> Result<PurgeReport> {
    let Risen { notes, scanned } = find_risen(request.root, false, &request.cancel).await?;
    match notes.is_empty() {
        true => Ok(PurgeReport { dry_run: request.dry_run, scanned, ..PurgeReport::default() }),
        false => purge(PurgeRequest { notes: &notes, ..request }).await,
    }
}

async fn find(
    root: &Root,
    cancel: &Cancel,
    newest: &Manifest,
    since: Option<DateTime<Utc>>,
    scanned: &mut Scanned,
) -> Result<BTreeSet<NoteId>> {
    let purged = &newest.purged;
    let mut found = BTreeSet::new();
    let objects = root.own_objects().await?;
    let written = Written::of(root, &objects).await?;
    for object in objects {
        cancel.check()?;
        if since.is_some_and(|since| object.modified < since) {
            continue;
        }
        match notes_of(root, &object, &written, purged).await {
            Ok(notes) => found.extend(notes),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.is_retryable() => return Err(error),
            // Damaged: a purge judges it, a build makes it again.
            Err(_) => {}
        }
        scanned.objects += 1;
        scanned.bytes += object.size;
    }
    Ok(found)
}

/// The purged notes that an object names. Indexes name none: their ids files do, which are written before them.
async fn notes_of(
    root: &Root,
    object: &Listed,
    written: &Written,
    purged: &Purged,
) -> Result<BTreeSet<NoteId>> {
    let key = object.key.as_str();
    match layout::parse(key) {
        Some(Key::Prepared { .. } | Key::Part { .. } | Key::Ids { .. }) => {
            let wanted = |note: &NoteId| purged.contains(note);
            rows::notes_in(root, (key, object.size), written, &wanted).await
        }
        // A page says what its report says.
        None | Some(Key::ReportPage { .. } | Key::Manifest { .. } | Key::Calibration { .. }) => {
            Ok(BTreeSet::new())
        }
        _ if layout::folder(key) == Some(Folder::Leases) || object.size > MAX_JSON => {
            Ok(BTreeSet::new())
        }
        Some(
            Key::Rows { .. }
            | Key::Located { .. }
            | Key::Index { .. }
            | Key::Sidecar { .. }
            | Key::Removed { .. }
            | Key::TowerWeights { .. }
            | Key::TowerConfig { .. }
            | Key::TowerTokenizer { .. },
        ) => Ok(BTreeSet::new()),
        Some(_) => {
            let mut found = BTreeSet::new();
            if let Ok(json) = serde_json::from_slice(&root.get(key).await?) {
                snapshot::purged_in(&json, purged, &mut found);
            }
            Ok(found)
        }
    }
}
