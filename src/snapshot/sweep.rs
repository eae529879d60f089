//! Deleting what a gc selected, in batches, each under a lease that holds publishers off for a moment.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::gc::names_of;
use super::lease::{COMMIT_LIMIT, Kind, Lease};
use super::read::numbers;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::{Listed, Root, layout};

/// Objects deleted under one lease.
const BATCH: usize = 512;
/// Deletes in flight.
const DELETERS: usize = 16;
/// How long a batch waits for a publish.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Deletes the steps in order and returns what went. `known` are the snapshots whose objects are not among them;
/// what a snapshot committed meanwhile names is left alone, with everything that comes after a receipt of it.
pub(super) async fn delete(
    root: &Root,
    steps: [Vec<Listed>; 3],
    mut known: BTreeSet<u64>,
) -> Result<Vec<Listed>> {
    let mut doomed: VecDeque<Listed> = steps.into_iter().flatten().collect();
    let going: BTreeSet<u64> =
        doomed.iter().filter_map(|object| layout::manifest_number(&object.key)).collect();
    let mut gone = Vec::new();
    let mut needed: HashSet<String> = HashSet::new();
    while !doomed.is_empty() {
        let lease = take_when_quiet(root).await?;
        let swept = async {
            for number in numbers(root).await? {
                if !going.contains(&number) && known.insert(number) {
                    needed.extend(names_of(root, number).await?);
                }
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
        gone.extend(swept?);
    }
    Ok(gone)
}

/// A gc lease that no commit lease stands beside.
async fn take_when_quiet(root: &Root) -> Result<Lease<'_>> {
    let started = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let lease = Lease::take(root, Kind::Gc).await.context(|| "collecting garbage")?;
        match lease.held(Kind::Commit).await {
            Ok(false) => return Ok(lease),
            Ok(true) => lease.release().await,
            Err(error) => {
                lease.release().await;
                return Err(error);
            }
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Transient,
                format!("publishing to {} does not end; run gc again later", root.uri()),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Deletes in order of kinds: within a batch everything up to a change of kind is done before the next begins.
async fn delete_batch(root: &Root, batch: Vec<Listed>, lease: &Lease<'_>) -> Result<Vec<Listed>> {
    let mut gone = Vec::with_capacity(batch.len());
    for run in batch.chunk_by(|a, b| kind(&a.key) == kind(&b.key)) {
        let deleted = futures::stream::iter(run.iter().cloned().map(|object| async move {
            // A batch that stands still must not delete beside a publish that thinks it dead.
            if lease.age() > COMMIT_LIMIT {
                return Err(Error::new(
                    ErrorKind::Transient,
                    "deleting takes longer than a gc lease lasts; run gc again",
                ));
            }
            root.delete(&object.key).await?;
            Ok(object)
        }));
        gone.extend(deleted.buffered(DELETERS).try_collect::<Vec<_>>().await?);
    }
    Ok(gone)
}

/// Manifests, then receipts, then the rest.
fn kind(key: &str) -> u8 {
    match key {
        key if layout::manifest_number(key).is_some() => 0,
        key if layout::is_receipt(key) => 1,
        _ => 2,
    }
}
