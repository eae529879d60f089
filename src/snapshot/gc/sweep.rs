//! Deleting what a gc selected, in batches, each under a lease that holds publishers off for a moment.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::names::named_by;
use crate::error::{Error, Result, ResultExt};
use crate::snapshot::lease::{COMMIT_LIMIT, Lease, Patience};
use crate::snapshot::manifest::{numbers, read};
use crate::store::layout::{self, Folder, LeaseKind};
use crate::store::{Listed, Root};

/// Objects deleted under one lease.
const BATCH: usize = 512;
/// Deletes in flight.
const DELETERS: usize = 16;
/// How long a batch waits for a publish.
const FOR_COMMITS: Duration = Duration::from_secs(5 * 60);

/// Whose leases keep an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::snapshot) enum Heed {
    /// Those of readers and of runs, too.
    Everyone,
    /// Publishers only: what is purged is deleted even if it is being read.
    CommitsAlone,
}

/// What [`delete`] did.
pub(in crate::snapshot) struct Sweep {
    pub gone: Vec<Listed>,
    /// Objects that stay for a run that started meanwhile.
    pub held_back: u64,
}

/// Takes embeddings, indexes and towers off the list and counts them: a run is in progress that may use any of them
/// again.
pub(super) fn hold_back(doomed: &mut VecDeque<Listed>) -> u64 {
    let before = doomed.len();
    doomed.retain(|object| {
        !matches!(
            layout::folder(&object.key),
            Some(Folder::Embeddings(_) | Folder::Indexes(_) | Folder::Towers(_))
        )
    });
    (before - doomed.len()) as u64
}

/// The objects in the order in which they are deleted: manifests, then receipts, then the rest.
pub(in crate::snapshot) fn in_order(mut doomed: Vec<Listed>) -> VecDeque<Listed> {
    doomed.sort_by_cached_key(|object| kind(&object.key));
    doomed.into()
}

/// Deletes what [`in_order`] gave. `known` are the snapshots whose objects are not among it; what a snapshot committed
/// meanwhile names is left alone, and so is what a reader or a run that came meanwhile has a lease for.
pub(in crate::snapshot) async fn delete(
    root: &Root,
    mut doomed: VecDeque<Listed>,
    mut known: BTreeSet<u64>,
    heed: Heed,
) -> Result<Sweep> {
    let mut going: BTreeSet<u64> =
        doomed.iter().filter_map(|object| layout::manifest_number(&object.key)).collect();
    let mut sweep = Sweep { gone: Vec::new(), held_back: 0 };
    let mut needed: HashSet<String> = HashSet::new();
    while !doomed.is_empty() {
        let lease = take_when_quiet(root).await?;
        let swept = async {
            let leases = lease.others().await?;
            if heed == Heed::Everyone {
                for number in leases.read_snapshots() {
                    going.remove(&number);
                }
            }
            let there = numbers(root).await?;
            for &number in &there {
                if !going.contains(&number) && known.insert(number) {
                    needed.extend(named_by(&read(root, number).await?.content));
                }
            }
            if heed == Heed::Everyone && leases.any_run() {
                sweep.held_back += hold_back(&mut doomed);
            }
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some(object) = doomed.pop_front()
            {
                // A snapshot that a reader saved keeps its signatures.
                let saved = layout::snapshot_of(&object.key)
                    .is_some_and(|number| there.contains(&number) && !going.contains(&number));
                if !saved && !needed.contains(&object.key) {
                    batch.push(object);
                }
            }
            delete_batch(root, batch, &lease).await
        };
        let swept = swept.await;
        lease.release().await;
        sweep.gone.extend(swept?);
    }
    Ok(sweep)
}

/// A gc lease that no commit lease is beside.
async fn take_when_quiet(root: &Root) -> Result<Lease<'_>> {
    let mut patience = Patience::of(FOR_COMMITS);
    loop {
        let lease = Lease::take(root, LeaseKind::Gc).await.context(|| "collecting garbage")?;
        let publishing = lease.stands_beside(LeaseKind::Commit).await;
        if matches!(publishing, Ok(false)) {
            return Ok(lease);
        }
        lease.release().await;
        publishing?;
        let told = || format!("publishing to {} does not end; run gc again later", root.uri());
        patience.pause(told).await?;
    }
}

/// Deletes in order of kinds: within a batch everything up to a change of kind is done before the next begins.
async fn delete_batch(root: &Root, batch: Vec<Listed>, lease: &Lease<'_>) -> Result<Vec<Listed>> {
    let mut gone = Vec::with_capacity(batch.len());
    for run in batch.chunk_by(|a, b| kind(&a.key) == kind(&b.key)) {
        let deletes: Vec<_> =
            run.iter().map(|object| delete_one(root, object.clone(), lease)).collect();
        let deleted = futures::stream::iter(deletes).buffered(DELETERS);
        gone.extend(deleted.try_collect::<Vec<_>>().await?);
    }
    Ok(gone)
}

async fn delete_one(root: &Root, object: Listed, lease: &Lease<'_>) -> Result<Listed> {
    // A batch that stands still must not delete beside a publish that thinks it dead.
    if lease.age() > COMMIT_LIMIT {
        return Err(Error::transient("deleting takes longer than a gc lease lasts; run gc again"));
    }
    if layout::parse(&object.key).is_none() {
        return Err(Error::internal(format!("{} is not this program's and stays", object.key)));
    }
    root.delete(&object.key).await?;
    Ok(object)
}

/// Manifests, then receipts, then the rest.
fn kind(key: &str) -> u8 {
    match key {
        key if layout::manifest_number(key).is_some() => 0,
        key if layout::is_receipt(key) => 1,
        _ => 2,
    }
}
