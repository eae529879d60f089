//! A purge under the lease of a run: no run may write what the purge is about to look for.

use futures::future::BoxFuture;

use super::context::{Session, lease, new_run_id};
use crate::error::Result;
use crate::snapshot::{self, RunLease};
use crate::stage::{self, PurgeReport, PurgeRequest};

/// [`stage::purge`] while no run of the root is going on. A dry run only looks and needs no lease.
///
/// # Errors
/// Busy where a run is going on; as [`stage::purge`].
pub async fn purge(request: PurgeRequest<'_>) -> Result<PurgeReport> {
    alone(request, |request| Box::pin(stage::purge(request))).await
}

/// [`stage::purge_again`] while no run of the root is going on.
///
/// # Errors
/// As [`purge`].
pub async fn purge_again(request: PurgeRequest<'_>, whole: bool) -> Result<PurgeReport> {
    alone(request, |request| Box::pin(stage::purge_again(request, whole))).await
}

async fn alone<'a>(
    request: PurgeRequest<'a>,
    work: impl FnOnce(PurgeRequest<'a>) -> BoxFuture<'a, Result<PurgeReport>>,
) -> Result<PurgeReport> {
    if request.dry_run {
        return work(request).await;
    }
    snapshot::signer(request.root).await?;
    let taken = RunLease::take(request.root, &new_run_id()).await?.or_busy(request.root)?;
    let alive = lease::Heart::start(taken, request.cancel.child());
    let request = PurgeRequest { cancel: alive.cancel.clone(), ..request };
    let outcome = work(request).await;
    alive.stop().await;
    outcome
}

/// What every run does first, under its own lease: purged notes that were stored again since go, and it says so.
pub(super) async fn repeat(session: &Session) -> Result<()> {
    let request = PurgeRequest {
        root: &session.ctx.root,
        notes: &[],
        dry_run: false,
        reporter: session.reporter.clone(),
        cancel: session.ctx.cancel.clone(),
    };
    // Boxed: every run's future would hold it, too.
    let again = Box::pin(stage::purge_again(request, false)).await?;
    if let Some(message) = told_of_again(&again) {
        session.reporter.warn(message);
    }
    Ok(())
}

/// What to tell of purged notes that were found again; `None` where none were.
pub fn told_of_again(again: &PurgeReport) -> Option<String> {
    if again.notes == 0 {
        return None;
    }
    let done = match (again.dry_run, again.left.len()) {
        (true, _) => "they would be purged again".to_owned(),
        (false, 0) => format!("they are purged again, {} objects are deleted", again.deleted.len()),
        (false, left) => format!("{left} objects hold something of them still: purge them by name"),
    };
    Some(format!(
        "{} purged notes were stored again by work that was planned before their purge; {done}",
        again.notes
    ))
}
