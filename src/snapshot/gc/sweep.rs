//! Deleting what a gc selected, in batches, each under a lease that holds publishers off for a moment.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::names::names_of;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::snapshot::lease::{COMMIT_LIMIT, Lease, Patience};
use crate::snapshot::manifest::numbers;
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
    /// Of nobody but publishers: what is purged goes, whoever reads it.
    CommitsAlone,
}

/// What [`delete`] did.
pub(in crate::snapshot) struct Sweep {
    pub gone: Vec<Listed>,
    /// Objects that stay for a run that started meanwhile.
    pub held_back: u64,
}

/// Takes embeddings and indexes off the lists and counts them: a run is going on that may use any of them again.
pub(super) fn hold_back<'a>(doomed: impl Iterator<Item = &'a mut Vec<Listed>>) -> u64 {
    let mut held_back = 0;
    for list in doomed {
        let before = list.len();
        list.retain(|object| !is_reusable(&object.key));
        held_back += (before - list.len()) as u64;
    }
    held_back
}

fn is_reusable(key: &str) -> bool {
    matches!(layout::folder(key), Some(Folder::Embeddings(_) | Folder::Indexes(_)))
}

/// Deletes the steps in order. `known` are the snapshots whose objects are not among them; what a snapshot committed
/// meanwhile names is left alone, and so is what a reader or a run that came meanwhile has a lease for.
pub(in crate::snapshot) async fn delete(
    root: &Root,
    steps: [Vec<Listed>; 3],
    mut known: BTreeSet<u64>,
    heed: Heed,
) -> Result<Sweep> {
    let mut doomed: VecDeque<Listed> = steps.into_iter().flatten().collect();
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
                    if going.remove(&number) {
                        needed.insert(layout::manifest(number));
                    }
                }
            }
            for number in numbers(root).await? {
                if !going.contains(&number) && known.insert(number) {
                    needed.extend(names_of(root, number).await?);
                }
            }
            if heed == Heed::Everyone && leases.any_run() {
                let before = doomed.len();
                doomed.retain(|object| !is_reusable(&object.key));
                sweep.held_back += (before - doomed.len()) as u64;
            }
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some(object) = doomed.pop_front()
            {
                if !needed.contains(&object.key) {
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

/// A gc lease that no commit lease stands beside.
async fn take_when_quiet(root: &Root) -> Result<Lease<'_>> {
    let mut patience = Patience::of(FOR_COMMITS);
    loop {
        let lease = Lease::take(root, LeaseKind::Gc).await.context(|| "collecting garbage")?;
        match lease.stands_beside(LeaseKind::Commit).await {
            Ok(false) => return Ok(lease),
            Ok(true) => lease.release().await,
            Err(error) => {
                lease.release().await;
                return Err(error);
            }
        }
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
        return Err(Error::new(
            ErrorKind::Transient,
            "deleting takes longer than a gc lease lasts; run gc again",
        ));
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
