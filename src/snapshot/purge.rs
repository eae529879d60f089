//! What a purge needs of snapshots: a commit that also changes the tombstones, and deleting without a grace time.

use std::collections::BTreeSet;

use super::commit::{Marks, commit_exactly};
use super::gc::{Heed, delete, in_order};
use super::maker;
use super::manifest::{CommitOutcome, Content, Manifest, Provenance, Purged, content_hash};
use crate::error::{Result, ResultExt};
use crate::store::{Listed, Root, layout};

/// Commits `content` on top of `parent` with exactly these tombstones. A purge is decided by a person, so a content
/// that was rolled back before does not stop it.
///
/// # Errors
/// As [`super::commit`].
pub async fn commit_purged(
    root: &Root,
    parent: &Manifest,
    content: Content,
    purged: Purged,
    mut provenance: Provenance,
) -> Result<CommitOutcome> {
    let hash = content_hash(&content)?;
    let mut marks = Marks { purged, ..Marks::of(Some(parent)) };
    marks.blocked.retain(|other| *other != hash);
    maker::tell(root, parent, &mut provenance).await?;
    commit_exactly(root, Some(parent), content, marks, provenance).await
}

/// Deletes manifests, then receipts, then files, at once, even if they are being read: under the lease that holds
/// publishers off, and leaving alone what a snapshot committed meanwhile names. `kept` are the snapshots that stay.
/// Returns what was deleted.
///
/// # Errors
/// Transient where a publish does not end; run again.
pub async fn delete_now(
    root: &Root,
    mut doomed: Vec<Listed>,
    kept: BTreeSet<u64>,
) -> Result<Vec<Listed>> {
    // Nothing is left that they sign.
    let gone: BTreeSet<u64> = doomed.iter().filter_map(|o| layout::snapshot_of(&o.key)).collect();
    if !gone.is_empty() {
        let signed = root.list(layout::SIGNATURES).await?.into_iter().filter(|object| {
            layout::snapshot_of(&object.key).is_some_and(|number| gone.contains(&number))
        });
        doomed.extend(signed);
    }
    let swept = delete(root, in_order(doomed), kept, Heed::CommitsAlone).await;
    Ok(swept.context(|| "purging")?.gone)
}
