//! A purge under the lease of a run: no run may write what the purge is about to look for.

use super::context::{lease, new_run_id};
use crate::error::Result;
use crate::snapshot::{self, RunLease};
use crate::stage::{self, PurgeReport, PurgeRequest};

/// [`stage::purge`] while no run of the root is going on. A dry run only looks and needs no lease.
///
/// # Errors
/// Busy where a run is going on; as [`stage::purge`].
pub async fn purge(request: PurgeRequest<'_>) -> Result<PurgeReport> {
    if request.dry_run {
        return stage::purge(request).await;
    }
    snapshot::signer(request.root).await?;
    let taken = RunLease::take(request.root, &new_run_id()).await?.or_busy(request.root)?;
    let alive = lease::Heart::start(taken, request.cancel.child());
    let request = PurgeRequest { cancel: alive.cancel.clone(), ..request };
    let outcome = stage::purge(request).await;
    alive.stop().await;
    outcome
}
