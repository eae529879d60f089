//! Rollback: an older content under a new number.

use super::commit::{Marks, commit_exactly};
use super::ids;
use super::maker;
use super::manifest::{
    CommitOutcome, Content, Provenance, Purged, ShardContent, newest, numbers, read,
};
use crate::error::{Error, Result};
use crate::store::Root;
use crate::types::NoteId;

/// Commits the content of snapshot `to` under a new number and blocks every newer content, so that tomorrow's run
/// does not bring it back unless it differs. The chosen content itself is unblocked: a rollback may be undone. Where
/// the newer content is of another embedding space, no back-fill switches to that space again. What was measured of the
/// content and its corpus stays known.
///
/// # Errors
/// NotFound where `to` or an object it names is gone, or holds what was purged since; Input where it is what is served already.
pub async fn rollback(root: &Root, to: u64, command: Provenance) -> Result<CommitOutcome> {
    let target = read(root, to).await?;
    let current = newest(root)
        .await?
        .ok_or_else(|| Error::not_found(format!("there is no snapshot in {}", root.uri())))?;
    if current.content_hash == target.content_hash {
        return Err(Error::input(format!(
            "snapshot {} already serves the content of snapshot {to}; there is nothing to roll back",
            current.number
        )));
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
    commit_exactly(root, Some(&current), target.content, marks, provenance).await
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
