//! A snapshot of another root, committed here.

use super::commit::{Marks, commit_exactly};
use super::maker;
use super::manifest::{CommitOutcome, Manifest, Provenance};
use crate::error::Result;
use crate::store::Root;

/// Commits the content of `source`, a snapshot of the root `from` all of whose files are in `root` by now. What was
/// made and measured there stays known; what `root` blocks or has purged stays so. The first snapshot of a root takes
/// the tombstones along: nothing of those notes is in it, and no run should bring them back.
///
/// # Errors
/// As [`super::commit`].
pub async fn commit_copied(
    root: &Root,
    from: &Root,
    parent: Option<&Manifest>,
    source: &Manifest,
    command: Provenance,
) -> Result<CommitOutcome> {
    let mut marks = Marks::of(parent);
    if parent.is_none() {
        marks.purged = source.purged.clone();
    }
    let Provenance { sql, inputs, gates, measured, .. } = source.provenance.clone();
    let mut provenance = Provenance { sql, inputs, gates, measured, ..command };
    maker::tell(from, source, &mut provenance).await?;
    provenance.set_copied(from.uri(), source);
    commit_exactly(root, parent, source.content.clone(), marks, provenance).await
}
