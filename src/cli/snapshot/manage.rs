//! `snapshot rollback|gc`: what changes a root.

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::{number, place, root};
use crate::cli::terminal::now;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec;
use crate::observe::format;
use crate::snapshot::{self, GcReport, Protected, Provenance, Retention, RollbackOutcome};
use crate::stage::PurgeRequest;
use crate::store::Root;

/// Publish an older snapshot's content again, under a new number
///
/// Readers pick up the new number like any other. The content that is rolled back is blocked: later
/// runs do not bring it back unless it differs, and [next] does not switch again to a tower that
/// was rolled back.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Snapshot whose content to publish again.
    #[arg(value_parser = number::snapshot)]
    number: u64,
    /// Reason for the rollback; recorded in the new snapshot.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Delete what no retained snapshot, plan or run needs
///
/// Anything younger than the grace period is left alone, so readers and running jobs are safe.
/// Without a pipeline file, the default retention applies unless flags say otherwise. While a
/// pipeline file has [next], embeddings of spaces that no snapshot serves yet are kept, however old
/// they are.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Root URI or path, or a pipeline file with its [retention].
    #[arg(value_parser = place::text())]
    root: String,
    /// Show what would be deleted, without deleting anything.
    #[arg(long)]
    dry_run: bool,
    /// Number of newest snapshots to keep.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Keep everything younger than this many hours.
    #[arg(long, value_name = "HOURS")]
    grace_hours: Option<u32>,
    /// Delete run folders, prepared text and unnamed embeddings older than this many days.
    #[arg(long, value_name = "DAYS")]
    runs_days: Option<u32>,
    /// Print JSON, including every deleted object.
    #[arg(long)]
    json: bool,
}

/// Sign snapshots that are already published
///
/// Needed once when you start signing, and again when you change the key; runs sign what they
/// publish themselves. The private key is read from the file that SCALINGNOTE_SIGNING_KEY_FILE
/// names, or from SCALINGNOTE_SIGNING_KEY. A signature says that you trust what a snapshot holds,
/// so check it with `snapshot verify` first. Signatures by other keys are kept.
#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Snapshot number; defaults to every snapshot.
    #[arg(value_parser = number::snapshot)]
    number: Option<u64>,
}

pub(super) async fn sign(args: &SignArgs, app: &App) -> Result<()> {
    let root = root::open_to_write(&args.root, false)?.root;
    let signed = snapshot::sign_published(&root, args.number).await?;
    let key = root.keys().signing.as_ref().map(|key| key.public().id()).unwrap_or_default();
    let what = match signed[..] {
        [] => format!("{} holds no snapshot yet\n", root.uri()),
        [only] => format!("snapshot {only} is signed by key {key}\n"),
        [first, .., last] => {
            format!("{} snapshots ({first} to {last}) are signed by key {key}\n", signed.len())
        }
    };
    app.print(&what).context(|| "the snapshots are signed, but that could not be printed")
}

pub(super) async fn rollback(args: &RollbackArgs, app: &App) -> Result<()> {
    if args.reason.trim().is_empty() {
        return Err(Error::usage("the --reason is empty; say why"));
    }
    let root = root::open_to_write(&args.root, false)?.root;
    let provenance = Provenance {
        created_at: now(),
        host: snapshot::host_name(),
        program: concat!("scalingnote ", env!("CARGO_PKG_VERSION")).to_owned(),
        run: format!("rollback to {}: {}", args.number, args.reason.trim()),
        ..Provenance::default()
    };
    match snapshot::rollback(&root, args.number, provenance).await? {
        RollbackOutcome::Committed(manifest) => {
            let serves = format!(
                "snapshot {} serves the content of snapshot {}",
                manifest.number, args.number
            );
            let notes = format::counted(manifest.content.notes, "note");
            app.print(&format!("{serves}: {notes}\n"))
                .context(|| format!("{serves}, but that could not be printed"))
        }
        // Somebody who types it twice, or a job that is run again, has what was asked for.
        RollbackOutcome::AlreadyServed(current) => {
            let (number, to) = (current.number, args.number);
            let serves = match number == to {
                true => format!("snapshot {to} is the newest and is served already"),
                false => format!("snapshot {number} already serves the content of snapshot {to}"),
            };
            let notes = format::counted(current.content.notes, "note");
            app.print(&format!("{serves}: {notes}; nothing was changed\n"))
        }
        RollbackOutcome::LostTo(other) => Err(Error::conflict(format!(
            "snapshot {} by {} on {} was published in the meantime; look at it, then roll back again",
            other.number, other.provenance.run, other.provenance.host
        ))),
    }
}

pub(super) async fn gc(args: &GcArgs, app: &App) -> Result<()> {
    let opened = root::open_to_write(&args.root, args.dry_run)?;
    let growing = opened.pipeline.as_ref().is_some_and(|pipeline| pipeline.next.is_some());
    let base = opened.pipeline.map(|pipeline| pipeline.retention).unwrap_or_default();
    let retention = Retention {
        snapshots: args.keep.unwrap_or(base.snapshots),
        grace_hours: args.grace_hours.unwrap_or(base.grace_hours),
        runs_days: args.runs_days.unwrap_or(base.runs_days),
    };
    let now = match opened.root.now().await {
        // The store's time is told by what is written there. A full or read-only one is asked what could go all the
        // same.
        Err(_) if args.dry_run => chrono::Utc::now(),
        found => found?,
    };
    let again = purge_again(&opened.root, args.dry_run, app).await?;
    let protected = Protected { growing, ..Protected::default() };
    let report = snapshot::gc(&opened.root, &retention, now, args.dry_run, &protected).await?;
    let report = GcReport { purged_again: again, ..report };
    let text = |report: &GcReport| describe(report) + &why(report, &retention);
    app.answer(args.json, &report, text).context(|| match args.dry_run {
        true => "nothing was deleted",
        false => "what is not needed is deleted, but the report could not be printed",
    })
}

/// Purges notes again that were stored since they were purged, and says so. Returns how many.
async fn purge_again(root: &Root, dry_run: bool, app: &App) -> Result<u64> {
    let request = PurgeRequest {
        root,
        notes: &[],
        dry_run,
        reporter: app.reporter.clone(),
        cancel: app.cancel.clone(),
    };
    match exec::purge_again(request, false).await {
        Ok(report) => {
            if let Some(message) = exec::told_of_again(&report) {
                app.reporter.warn(message);
            }
            Ok(report.notes)
        }
        Err(busy) if busy.kind() == ErrorKind::Busy => {
            app.reporter.warn(format!(
                "purged notes are stored again, and stay until the next run or gc: {busy}"
            ));
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

/// Why more snapshots stay than are to be kept.
fn why(report: &GcReport, retention: &Retention) -> String {
    let keep = retention.snapshots.max(1) as usize;
    match report.kept_snapshots.len().saturating_sub(keep) {
        0 => String::new(),
        more => format!(
            "why      {more} more than the {keep} to keep: readers have them, or they were the newest until less than \
             {} ago (--grace-hours)\n",
            format::counted(retention.grace_hours.into(), "hour")
        ),
    }
}

fn describe(report: &GcReport) -> String {
    let numbers = |list: &[u64]| match list {
        [] => "none".to_owned(),
        [only] => only.to_string(),
        [first, .., last] => format!("{} ({first} to {last})", list.len()),
    };
    let verb = if report.dry_run { "would delete" } else { "deleted" };
    let held_back = match report.held_back {
        0 => String::new(),
        objects => format!(
            "waiting  until the run in progress has ended: {}\n",
            format::counted(objects, "object")
        ),
    };
    format!(
        "kept     snapshots {}; {}, {}\n{verb} snapshots {}; {}, {}\n{held_back}",
        numbers(&report.kept_snapshots),
        format::counted(report.kept_objects, "object"),
        format::bytes(report.kept_bytes),
        numbers(&report.deleted_snapshots),
        format::counted(report.deleted.len() as u64 + report.torn_writes, "object"),
        format::bytes(report.deleted_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_that_stay_longer_are_explained() {
        let retention = Retention { snapshots: 1, grace_hours: 24, runs_days: 7 };
        let report = GcReport { kept_snapshots: vec![3, 4, 5], ..GcReport::default() };
        let said = why(&report, &retention);
        assert!(said.contains("2 more than the 1 to keep"), "{said}");
        assert!(said.contains("less than 24 hours ago"), "{said}");
        assert_eq!(why(&report, &Retention { snapshots: 3, ..retention }), "");
    }
}
