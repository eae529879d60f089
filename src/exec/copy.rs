//! Copying a snapshot, with gc kept away from both roots.

use super::context::{lease, new_run_id};
use crate::error::{Error, Result};
use crate::search::Leases;
use crate::snapshot::{self, RunLease};
use crate::stage::{self, CopyReport, CopyRequest};
use crate::store::Root;

/// [`stage::copy`] under a run's lease in the root that gets the snapshot, so that no gc there takes what has just
/// arrived and nobody names yet, and under a reader's in the one that has it. A dry run only looks and needs neither.
///
/// # Errors
/// Usage where both are one root; Config where the other one can only be read; Busy where a run of it is in progress;
/// as [`stage::copy`].
pub async fn copy(request: CopyRequest<'_>) -> Result<CopyReport> {
    let (from, to) = (request.from, request.to);
    if is_same(from, to) {
        return Err(Error::usage(format!(
            "{} would be copied to itself; `snapshot rollback` serves an older snapshot again",
            to.uri()
        )));
    }
    to.require_writable()?;
    if request.dry_run {
        return stage::copy(request).await;
    }
    snapshot::signer(to).await?;
    if snapshot::numbers(to).await?.is_empty() {
        to.refuse_nesting().await?;
    }
    snapshot::check_store(to).await?;
    // Says which numbers there are, where this one is not.
    snapshot::read(from, request.number).await?;
    let reading = Leases::default();
    let read = reading.take(from, request.number).await?;
    let taken = RunLease::take(to, &new_run_id()).await?.or_busy(to)?;
    let alive = lease::Heart::start(taken, request.cancel.child());
    let request = CopyRequest { cancel: alive.cancel.clone(), ..request };
    let copied = stage::copy(request).await;
    alive.stop().await;
    drop(read);
    reading.settle().await;
    copied
}

fn is_same(from: &Root, to: &Root) -> bool {
    let real = |root: &Root| root.local_folder().and_then(|folder| folder.canonicalize().ok());
    let named = from.uri().trim_end_matches('/') == to.uri().trim_end_matches('/');
    (named && from.uri() != "memory://") || (real(from).is_some() && real(from) == real(to))
}
