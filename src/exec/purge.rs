//! A purge, and a repair, under the lease of a run: no run may write what they are about to look for, or use it.

use super::context::{Session, lease, new_run_id};
use crate::error::Result;
use crate::observe::format::counted;
use crate::snapshot::{self, RepairReport, RunLease};
use crate::stage::{self, PurgeReport, PurgeRequest, Risen};
use crate::store::Root;
use crate::types::Cancel;

/// [`stage::purge`] while no run of the root is in progress. A dry run only looks and needs no lease.
///
/// # Errors
/// Busy where a run is in progress; as [`stage::purge`].
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

/// [`purge`] of those notes that were purged and are stored again (`whole`: looked for in everything, not only in what
/// was stored since); the notes of the request are not looked at. Without any, no lease is taken.
///
/// # Errors
/// As [`purge`]; Busy only where some were found.
pub async fn purge_again(request: PurgeRequest<'_>, whole: bool) -> Result<PurgeReport> {
    let Risen { notes, scanned } = stage::find_risen(request.root, whole, &request.cancel).await?;
    match notes.is_empty() {
        true => Ok(PurgeReport { dry_run: request.dry_run, scanned, ..PurgeReport::default() }),
        false => purge(PurgeRequest { notes: &notes, ..request }).await,
    }
}

/// What every run does first, under its own lease: purged notes that were stored again since are deleted, and it says
/// so.
pub(super) async fn repeat(session: &Session) -> Result<()> {
    let request = PurgeRequest {
        root: &session.ctx.root,
        notes: &[],
        dry_run: false,
        reporter: session.reporter.clone(),
        cancel: session.ctx.cancel.clone(),
    };
    // Boxed: every run's future would hold it, too.
    let again = Box::pin(stage::purge_again(request)).await?;
    if let Some(message) = told_of_again(&again) {
        session.reporter.warn(message);
    }
    Ok(())
}

/// What to report of purged notes that were found again; `None` where none were.
pub fn told_of_again(again: &PurgeReport) -> Option<String> {
    if again.notes == 0 {
        return None;
    }
    let done = match (again.dry_run, again.left.len()) {
        (true, _) => "they would be purged again".to_owned(),
        (false, 0) => {
            let deleted = counted(again.deleted.len() as u64, "object");
            format!("they are purged again, deleted {deleted}")
        }
        (false, left) => {
            let left = counted(left as u64, "object");
            format!("something of them is left in {left}: purge them by name")
        }
    };
    let were = if again.notes == 1 { "was" } else { "were" };
    Some(format!(
        "{} {were} stored again by work that was planned before their purge; {done}",
        counted(again.notes, "purged note")
    ))
}

/// [`snapshot::repair`] while no run of the root is in progress. A dry run only looks and needs no lease.
///
/// # Errors
/// Busy where a run is in progress; as [`snapshot::repair`].
pub async fn repair(
    root: &Root,
    dry_run: bool,
    cancel: &Cancel,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<RepairReport> {
    if dry_run {
        return snapshot::repair(root, true, cancel, progress).await;
    }
    let taken = RunLease::take(root, &new_run_id()).await?.or_busy(root)?;
    let alive = lease::Heart::start(taken, cancel.child());
    let outcome = snapshot::repair(root, false, &alive.cancel, progress).await;
    alive.stop().await;
    outcome
}
