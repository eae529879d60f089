//! The one commit point: put-if-absent of the next manifest.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::lease::{COMMIT_LIMIT, HELD_LIMIT, Lease, host_name};
use super::maker;
use super::manifest::{
    CommitOutcome, Content, MANIFEST_VERSION, Manifest, Provenance, Purged, newest, numbers, parse,
    read, sign,
};
use super::sign::signer;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::layout::{self, LeaseKind};
use crate::store::{FileRef, Listed, PutOutcome, Root};
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
/// made again), the store fails (run again: the outcome is then known) or a gc does not end.
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
    /// Every file of the content was published before: no run makes a missing one again.
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

/// The manifest that [`commit`] would put for this content, without provenance: to look at what it names first.
///
/// # Errors
/// Corrupt for a content that contradicts itself.
pub fn proposed(parent: Option<&Manifest>, content: &Content) -> Result<Manifest> {
    manifest_of(parent, content.clone(), Marks::of(parent), Provenance::default())
}

fn manifest_of(
    parent: Option<&Manifest>,
    content: Content,
    marks: Marks,
    provenance: Provenance,
) -> Result<Manifest> {
    let Marks { mut blocked, mut blocked_spaces, purged, restored: _ } = marks;
    content.validate().context(|| "committing")?;
    let content = content.canonical()?;
    blocked.sort_unstable();
    blocked.dedup();
    blocked_spaces.retain(|space| *space != content.space_id);
    blocked_spaces.sort_unstable();
    blocked_spaces.dedup();
    Ok(Manifest {
        version: MANIFEST_VERSION,
        number: parent.map_or(1, |parent| parent.number + 1),
        parent: parent.map(|parent| parent.number),
        content_hash: hash_json(&content)?,
        content,
        blocked,
        blocked_spaces,
        purged,
        provenance,
    })
}

/// [`commit`] with exactly these marks.
pub(super) async fn commit_exactly(
    root: &Root,
    parent: Option<&Manifest>,
    content: Content,
    marks: Marks,
    provenance: Provenance,
) -> Result<CommitOutcome> {
    let restored = marks.restored;
    let manifest = manifest_of(parent, content, marks, provenance)?;
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
    if let Some(damage) = find_damage(root, &manifest.content).await? {
        let old = FileRef::paths(parent.iter().flat_map(|parent| parent.content.files()));
        return Err(damage.refusal(root, restored || old.contains(damage.file.path.as_str())));
    }
    if let Some(key) = signer(root).await? {
        sign(root, manifest.number, &bytes, &key).await?;
    }
    // Asking the store takes time, too: in the end this machine's own clock says how long that was.
    if !lease.is_younger_than(COMMIT_LIMIT).await? || lease.age() > COMMIT_LIMIT {
        return Err(Error::transient(
            "checking the objects of the snapshot took longer than the commit lease lasts; run again",
        ));
    }

    let key = layout::manifest(manifest.number);
    match root.put_if_absent(&key, bytes.clone().into()).await {
        Ok(PutOutcome::Created) => confirm(root, parent, manifest, lease).await,
        Ok(PutOutcome::AlreadyExists) => {
            let there = root.get(&key).await?;
            if there == bytes {
                return confirm(root, parent, manifest, lease).await;
            }
            Ok(decide(manifest, newest_or(root, &key).await?))
        }
        Err(failed) => resolve(root, parent, manifest, &bytes, lease, failed).await,
    }
}

/// The put reported an error: look whether the object is there after all.
async fn resolve(
    root: &Root,
    parent: Option<&Manifest>,
    manifest: Manifest,
    bytes: &[u8],
    lease: &Lease<'_>,
    failed: Error,
) -> Result<CommitOutcome> {
    let key = layout::manifest(manifest.number);
    let mut pause = std::time::Duration::from_millis(50);
    for _ in 0..4 {
        match root.get(&key).await {
            Ok(there) if there == bytes => return confirm(root, parent, manifest, lease).await,
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

/// Our manifest is in the store, where it stays: somebody may have read it already, and a published number never goes
/// but by gc. What is left to find out is what happened if this process stood still between its look at the objects and
/// its put for longer than its lease holds a gc off:
///
/// - Unreferenced objects were deleted, and ours were that until the put. Where ours is the newest, the parent's content
///   follows it ([`restore`]).
/// - So much was published that a gc freed our number again: then greater numbers are older than ours, nobody is ever served
///   it, and the next gc takes it.
///
/// The objects are looked up once more in any case: a gc batch that itself stood still, or a person, may have deleted
/// one.
async fn confirm(
    root: &Root,
    parent: Option<&Manifest>,
    manifest: Manifest,
    lease: &Lease<'_>,
) -> Result<CommitOutcome> {
    let number = manifest.number;
    let looked = look_again(root, &manifest, lease).await;
    match looked.context(|| format!("snapshot {number} is in place, looking at it again"))? {
        Look { newest: true, damage: Some(damage), .. } => {
            Err(restore(root, parent, &manifest, damage).await)
        }
        Look { late: true, .. } => {
            let winner = newest_or(root, &layout::manifest(number)).await?;
            Ok(CommitOutcome::LostTo(Box::new(winner)))
        }
        // Others may have published after it: it was served until then.
        Look { .. } => Ok(CommitOutcome::Committed(Box::new(manifest))),
    }
}

/// What is seen of a manifest after its put.
struct Look {
    newest: bool,
    /// Whether a greater number was there before it, by the store's clock: its own had been freed again.
    late: bool,
    damage: Option<Damage>,
}

async fn look_again(root: &Root, manifest: &Manifest, lease: &Lease<'_>) -> Result<Look> {
    let held = lease.is_younger_than(HELD_LIMIT).await.unwrap_or_else(|error| {
        // The disk may have become full. The snapshot is published all the same, and what it names is looked up.
        tracing::debug!(%error, "the store's clock could not be asked after a commit");
        true
    });
    // A gc that starts from now on sees the manifest; one already deleting is waited for.
    let again = match held {
        true => None,
        false => Some(Lease::take(root, LeaseKind::Commit).await?),
    };
    let looked = async {
        if let Some(again) = &again {
            again.wait_for_gc().await?;
        }
        let listed = root.list(layout::SNAPSHOTS).await?;
        let numbered =
            |object: &Listed| Some((layout::manifest_number(&object.key)?, object.modified));
        let written: BTreeMap<u64, _> = listed.iter().filter_map(numbered).collect();
        let own = written.get(&manifest.number);
        let mut newer = written.range(manifest.number + 1..);
        Ok(Look {
            newest: newer.clone().next().is_none(),
            late: newer.any(|(_, modified)| own.is_some_and(|own| modified < own)),
            damage: find_damage(root, &manifest.content).await?,
        })
    };
    let looked = looked.await;
    if let Some(again) = again {
        again.release().await;
    }
    looked
}

/// The newest snapshot, ours, names an object that is gone. What was served before is served again under the next
/// number, as by a rollback, but nothing is blocked: the next run makes and publishes what is missing. Returns what to
/// tell.
async fn restore(root: &Root, parent: Option<&Manifest>, ours: &Manifest, damage: Damage) -> Error {
    let told = format!(
        "snapshot {} was published although {}, which it names, had just been deleted or altered (by a gc, while this \
         process was suspended)",
        ours.number, damage.file.path
    );
    // The content before a purge holds what was purged; before the first snapshot there is none.
    let Some(parent) = parent.filter(|parent| parent.purged == ours.purged) else {
        return Error::corrupt(format!(
            "{told}; no earlier content may take its place, so readers are refused until {} in {} is removed by hand, \
             if nobody has opened it, and the same is done again",
            layout::manifest(ours.number),
            root.uri()
        ));
    };
    let restored = async {
        let mut provenance = Provenance {
            created_at: chrono::Utc::now().to_rfc3339(),
            host: host_name(),
            program: concat!("scalingnote ", env!("CARGO_PKG_VERSION")).to_owned(),
            run: format!("back to {}: files of {} are gone", parent.number, ours.number),
            gates: Vec::new(),
            ..parent.provenance.clone()
        };
        maker::tell(root, parent, &mut provenance).await?;
        let marks = Marks { restored: true, ..Marks::of(Some(parent)) };
        commit_boxed(root, Some(ours), parent.content.clone(), marks, provenance).await
    };
    match restored.await {
        Ok(CommitOutcome::Committed(restored)) => Error::transient(format!(
            "{told}; snapshot {} serves the content of snapshot {} again, run again to publish what is new",
            restored.number, parent.number
        )),
        Ok(CommitOutcome::LostTo(winner)) => {
            Error::transient(format!("{told}; snapshot {} has replaced it, run again", winner.number))
        }
        Ok(CommitOutcome::Blocked { by }) => Error::corrupt(format!(
            "{told}, and the content before it is blocked by snapshot {by}; roll back to another"
        )),
        Err(failed) => Error::corrupt(format!(
            "{told}, and the content before it could not be published again; roll back to a snapshot that \
             `snapshot verify` finds whole"
        ))
        .with_source(failed),
    }
}

/// A commit inside a commit.
fn commit_boxed<'a>(
    root: &'a Root,
    parent: Option<&'a Manifest>,
    content: Content,
    marks: Marks,
    provenance: Provenance,
) -> BoxFuture<'a, Result<CommitOutcome>> {
    commit_exactly(root, parent, content, marks, provenance).boxed()
}

/// An object that is not as a manifest says.
struct Damage {
    file: FileRef,
    /// Its size; `None` where it is missing.
    size: Option<u64>,
}

/// Looks every object up.
async fn find_damage(root: &Root, content: &Content) -> Result<Option<Damage>> {
    // A list of futures, not a closure held over an await: that would not be `Send`.
    let lookups: Vec<_> = content.files().map(|file| look_up(root, file)).collect();
    let mut found = futures::stream::iter(lookups).buffer_unordered(LOOKUPS);
    while let Some(damage) = found.try_next().await? {
        if damage.is_some() {
            return Ok(damage);
        }
    }
    Ok(None)
}

async fn look_up(root: &Root, file: &FileRef) -> Result<Option<Damage>> {
    let size = root.size(&file.path).await?;
    Ok((size != Some(file.size)).then(|| Damage { file: file.clone(), size }))
}

impl Damage {
    /// `published`: an earlier snapshot names it too, so no run would make it again.
    fn refusal(&self, root: &Root, published: bool) -> Error {
        let Self { file, size } = self;
        match size {
            Some(size) => Error::corrupt(format!(
                "{} in {} has {size} bytes where {} were written; nothing was published",
                file.path,
                root.uri(),
                file.size
            )),
            None if published => Error::not_found(format!(
                "{} is missing in {}, and an earlier snapshot names it: restore it, or roll back to a snapshot that \
                 `snapshot verify` finds whole; nothing was published",
                file.path,
                root.uri()
            )),
            None => Error::transient(format!(
                "{} is missing in {}; nothing was published, run again to rebuild it",
                file.path,
                root.uri()
            )),
        }
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
