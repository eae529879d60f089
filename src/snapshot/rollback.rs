//! Rollback: an older content under a new number.

use super::commit::{Marks, commit_exactly};
use super::maker;
use super::manifest::{CommitOutcome, Provenance, newest, numbers, read};
use crate::error::{Error, Result};
use crate::store::Root;

/// Commits the content of snapshot `to` under a new number and blocks every newer content, so that tomorrow's run
/// does not bring it back unless it differs. The chosen content itself is unblocked: a rollback may be undone. Where
/// the newer content is of another embedding space, no back-fill switches to that space again. What was measured of the
/// content and its corpus stays known.
///
/// # Errors
/// NotFound where `to` or an object it names is gone; Input where it is what is served already.
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
