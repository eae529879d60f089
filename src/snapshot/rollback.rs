//! Rollback: an older content under a new number.

use super::commit::{Marks, commit_exactly};
use super::ids;
use super::maker;
use super::manifest::{
    CommitOutcome, Content, Manifest, Provenance, Purged, ShardContent, newest, numbers, read,
};
use crate::error::{Error, Result};
use crate::store::Root;
use crate::types::NoteId;

/// What a rollback found. As of a commit, losing a race is a value.
#[derive(Debug, Clone, PartialEq)]
pub enum RollbackOutcome {
    /// This snapshot is now the newest, with the content that was asked for.
    Committed(Box<Manifest>),
    /// The newest snapshot, this one, serves that content already: nothing was changed.
    AlreadyServed(Box<Manifest>),
    /// Another publisher was first; its manifest.
    LostTo(Box<Manifest>),
}

/// Commits the content of snapshot `to` under a new number and blocks every newer content, so that tomorrow's run
/// does not bring it back unless it differs. The chosen content itself is unblocked: a rollback may be undone. Where
/// the newer content is of another embedding space, no back-fill switches to that space again. What was measured of the
/// content and its corpus stays known. Where that content is served already nothing is done: who asks twice has what was
/// asked for.
///
/// # Errors
/// NotFound where `to` or an object it names is gone, or holds what was purged since.
pub async fn rollback(root: &Root, to: u64, command: Provenance) -> Result<RollbackOutcome> {
    let target = read(root, to).await?;
    let current = newest(root)
        .await?
        .ok_or_else(|| Error::not_found(format!("there is no snapshot in {}", root.uri())))?;
    if current.content_hash == target.content_hash {
        return Ok(RollbackOutcome::AlreadyServed(Box::new(current)));
    }
    // A purge that is at work has committed its tombstones, and deletes what it found only now.
    if target.purged.stamp() != current.purged.stamp()
        && holds_purged(root, &target.content, &current.purged).await?
    {
        return Err(Error::not_found(format!(
            "snapshot {to} in {} holds notes that were purged since: it is deleted by that purge, or by the same purge once more",
            root.uri()
        )));
    }
    let mut marks = Marks { restored: true, ..Marks::of(Some(&current)) };
    for number in numbers(root).await? {
        if number > to && number <= current.number {
            let newer = read(root, number).await?;
            marks.blocked.push(newer.content_hash);
            marks.blocked_spaces.push(newer.content.space_id);
        }
    }
    marks.blocked.retain(|hash| *hash != target.content_hash);
    let Provenance { sql, inputs, measured, .. } = target.provenance.clone();
    let mut provenance = Provenance { sql, inputs, measured, ..command };
    maker::tell(root, &target, &mut provenance).await?;
    match commit_exactly(root, Some(&current), target.content, marks, provenance).await? {
        CommitOutcome::Committed(manifest) => Ok(RollbackOutcome::Committed(manifest)),
        CommitOutcome::LostTo(winner) => Ok(RollbackOutcome::LostTo(winner)),
        // What is chosen was unblocked above, so this cannot happen; it must not look like success.
        CommitOutcome::Blocked { by } => Err(Error::conflict(format!(
            "the content of snapshot {to} is blocked by snapshot {by}"
        ))),
    }
}

/// Whether a content holds notes that have these tombstones.
async fn holds_purged(root: &Root, content: &Content, purged: &Purged) -> Result<bool> {
    for segment in content.shards.iter().flat_map(ShardContent::segments) {
        for batch in ids::read(root, &segment.ids, &["note_id"]).await? {
            let batch = batch?;
            let mut notes = ids::notes(&batch)?.iter().flatten();
            if notes.any(|note| note.parse().is_ok_and(|note: NoteId| purged.contains(&note))) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
