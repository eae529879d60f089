//! The one commit point: put-if-absent of the next manifest.

use futures::{StreamExt, TryStreamExt};

use super::lease::{COMMIT_LIMIT, Lease};
use super::manifest::{
    CommitOutcome, Content, MANIFEST_VERSION, Manifest, Provenance, Purged, newest, numbers, parse,
    read, sign,
};
use super::sign::signer;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::layout::{self, LeaseKind};
use crate::store::{FileRef, PutOutcome, Root};
use crate::types::{Digest256, SpaceId, hash_json};

/// Objects looked up at the same time.
const LOOKUPS: usize = 32;

/// Re-checks that every object exists with its size, then puts manifest `parent + 1` if absent, and only if
/// `parent` is still the newest. What the parent blocks stays blocked, `blocked` is added; what was purged stays so.
///
/// A put whose acknowledgement was lost, and an earlier attempt of the same run, count as committed.
///
/// # Errors
/// Corrupt or NotFound for an object that is not as named; Transient where a new one is gone (a gc was first: it is
/// made anew), the store fails (run again: the outcome is then known) or a gc does not end.
pub async fn commit(
    root: &Root,
    parent: Option<&Manifest>,
    content: Content,
    blocked: Vec<Digest256>,
    provenance: Provenance,
) -> Result<CommitOutcome> {
    let mut marks = Marks::of(parent);
    marks.blocked.extend(blocked);
    commit_exactly(root, parent, content, marks, provenance).await
}

/// What a manifest says beside its content and where it came from.
pub(super) struct Marks {
    pub blocked: Vec<Digest256>,
    pub blocked_spaces: Vec<SpaceId>,
    pub purged: Purged,
    /// Every file of the content was published before: no run makes a missing one anew.
    pub restored: bool,
}

impl Marks {
    /// Those of the parent.
    pub fn of(parent: Option<&Manifest>) -> Self {
        Self {
            blocked: parent.map(|parent| parent.blocked.clone()).unwrap_or_default(),
            blocked_spaces: parent.map(|parent| parent.blocked_spaces.clone()).unwrap_or_default(),
            purged: parent.map(|parent| parent.purged.clone()).unwrap_or_default(),
            restored: false,
        }
    }
}

/// [`commit`] with exactly these marks.
pub(super) async fn commit_exactly(
    root: &Root,
    parent: Option<&Manifest>,
    content: Content,
    marks: Marks,
    provenance: Provenance,
) -> Result<CommitOutcome> {
    let Marks { mut blocked, mut blocked_spaces, purged, restored } = marks;
    content.validate().context(|| "committing")?;
    let content = content.canonical()?;
    blocked.sort_unstable();
    blocked.dedup();
    blocked_spaces.retain(|space| *space != content.space_id);
    blocked_spaces.sort_unstable();
    blocked_spaces.dedup();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        number: parent.map_or(1, |parent| parent.number + 1),
        parent: parent.map(|parent| parent.number),
        content_hash: hash_json(&content)?,
        content,
        blocked,
        blocked_spaces,
        purged,
        provenance,
    };
    let bytes =
        serde_json::to_vec_pretty(&manifest).context(|| "the manifest cannot be written")?;
    // What readers will see, down to the last bit of a float.
    let manifest = parse(&bytes, manifest.number).context(|| "committing")?;

    if manifest.blocked.contains(&manifest.content_hash) {
        return Ok(CommitOutcome::Blocked { by: blocking_number(root, &manifest).await? });
    }
    let lease = Lease::take(root, LeaseKind::Commit).await.context(|| "committing")?;
    let outcome = under_lease(root, parent, manifest, bytes, restored, &lease).await;
    lease.release().await;
    outcome
}

async fn under_lease(
    root: &Root,
    parent: Option<&Manifest>,
    manifest: Manifest,
    bytes: Vec<u8>,
    restored: bool,
    lease: &Lease<'_>,
) -> Result<CommitOutcome> {
    lease.check_store().await?;
    lease.wait_for_gc().await?;
    let current = newest(root).await?;
    let is_parent = match (&current, parent) {
        (None, None) => true,
        (Some(current), Some(parent)) => {
            current.number == parent.number && current.content_hash == parent.content_hash
        }
        _ => false,
    };
    if !is_parent {
        return match current {
            Some(current) => Ok(decide(manifest, current)),
            None => Err(Error::conflict(format!(
                "the parent snapshot {} is gone from {}",
                manifest.number - 1,
                root.uri()
            ))),
        };
    }
    check_objects(root, manifest.content.files(), parent, restored).await?;
    if let Some(key) = signer(root).await? {
        sign(root, manifest.number, &bytes, &key).await?;
    }
    if lease.age() > COMMIT_LIMIT {
        return Err(Error::transient(
            "checking the objects of the snapshot took longer than the commit lease lasts; run again",
        ));
    }

    let key = layout::manifest(manifest.number);
    match root.put_if_absent(&key, bytes.clone().into()).await {
        Ok(PutOutcome::Created) => confirm(root, manifest).await,
        Ok(PutOutcome::AlreadyExists) => {
            let there = root.get(&key).await?;
            if there == bytes {
                return confirm(root, manifest).await;
            }
            Ok(decide(manifest, newest_or(root, &key).await?))
        }
        Err(failed) => resolve(root, manifest, &bytes, failed).await,
    }
}

/// The put reported an error: look whether the object is there after all.
async fn resolve(
    root: &Root,
    manifest: Manifest,
    bytes: &[u8],
    failed: Error,
) -> Result<CommitOutcome> {
    let key = layout::manifest(manifest.number);
    let mut pause = std::time::Duration::from_millis(50);
    for _ in 0..4 {
        match root.get(&key).await {
            Ok(there) if there == bytes => return confirm(root, manifest).await,
            Ok(_) => return Ok(decide(manifest, newest_or(root, &key).await?)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(failed).context(|| format!("committing snapshot {}", manifest.number));
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause *= 3;
    }
    Err(failed).context(|| {
        format!("committing snapshot {}: not known whether it was committed", manifest.number)
    })
}

async fn newest_or(root: &Root, key: &str) -> Result<Manifest> {
    newest(root).await?.ok_or_else(|| Error::conflict(format!("{key} came and went; run again")))
}

/// Lost, unless the winner is an earlier attempt of the same run with the same content.
fn decide(ours: Manifest, winner: Manifest) -> CommitOutcome {
    let same_run = !ours.provenance.run.is_empty() && ours.provenance.run == winner.provenance.run;
    if same_run && ours.number == winner.number && ours.content_hash == winner.content_hash {
        CommitOutcome::Committed(Box::new(winner))
    } else {
        CommitOutcome::LostTo(Box::new(winner))
    }
}

/// Our manifest is in the store. It was committed unless its number is one that an old gc had freed again while
/// this process stood still: then newer manifests are older than it, nobody was ever served it, and it goes.
async fn confirm(root: &Root, manifest: Manifest) -> Result<CommitOutcome> {
    let listed = root.list(layout::SNAPSHOTS).await?;
    let written = |number: u64| {
        let key = layout::manifest(number);
        listed.iter().find(|object| object.key == key).map(|object| object.modified)
    };
    let own = written(manifest.number);
    let newer = listed.iter().filter_map(|object| layout::manifest_number(&object.key));
    let stale =
        newer.filter(|&number| number > manifest.number).any(|number| written(number) < own);
    if !stale {
        return Ok(CommitOutcome::Committed(Box::new(manifest)));
    }
    root.delete(&layout::manifest(manifest.number)).await?;
    let winner = newest_or(root, &layout::manifest(manifest.number)).await?;
    Ok(CommitOutcome::LostTo(Box::new(winner)))
}

/// Every object exists with its size.
async fn check_objects(
    root: &Root,
    files: impl Iterator<Item = &FileRef>,
    parent: Option<&Manifest>,
    restored: bool,
) -> Result<()> {
    let old = FileRef::paths(parent.iter().flat_map(|parent| parent.content.files()));
    // A list of futures, not a closure held over an await: that would not be `Send`.
    let lookups: Vec<_> = files
        .map(|file| look_up(root, file, restored || old.contains(file.path.as_str())))
        .collect();
    futures::stream::iter(lookups).buffer_unordered(LOOKUPS).try_collect().await
}

/// `published`: an earlier snapshot names it too, so no run would make it anew.
async fn look_up(root: &Root, file: &FileRef, published: bool) -> Result<()> {
    match root.size(&file.path).await? {
        Some(size) if size == file.size => Ok(()),
        Some(size) => Err(Error::corrupt(format!(
            "{} in {} has {size} bytes where {} were written; nothing was published",
            file.path,
            root.uri(),
            file.size
        ))),
        None if published => Err(Error::not_found(format!(
            "{} is missing in {}, and an earlier snapshot names it: restore it, or roll back to a snapshot that \
             `snapshot verify` finds whole; nothing was published",
            file.path,
            root.uri()
        ))),
        None => Err(Error::transient(format!(
            "{} is missing in {}; nothing was published, run again to make it anew",
            file.path,
            root.uri()
        ))),
    }
}

/// The oldest retained snapshot that blocks this content, for the message.
async fn blocking_number(root: &Root, manifest: &Manifest) -> Result<u64> {
    let mut by = manifest.parent.unwrap_or_default();
    for number in numbers(root).await?.into_iter().rev() {
        match read(root, number).await {
            Ok(older) if older.blocked.contains(&manifest.content_hash) => by = number,
            _ => break,
        }
    }
    Ok(by)
}
