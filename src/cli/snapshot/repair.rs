//! `snapshot repair`.

use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::{place, root};
use crate::error::{Result, ResultExt};
use crate::exec;
use crate::observe::{Event, Running, Stage, format};
use crate::snapshot::RepairReport;
use crate::store::layout;

/// Remove damaged files, so that the next run recreates them
///
/// Hashes every embedding part and every file of every index and adapted query tower, and deletes
/// those that differ from what was written, along with the receipts that name them. If you have a
/// backup, restore them from it first. A damaged tower is deleted as a whole. The next run encodes
/// the texts of such parts, builds such indexes and adapts such towers again; in delta mode, that
/// run must have corpus.mode = "full". Refuses to start while a run of this root is in progress.
#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Show what would be deleted, without deleting anything.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, including every deleted object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn repair(args: &RepairArgs, app: &App) -> Result<()> {
    let root = root::open_to_write(&args.root, args.dry_run)?.root;
    let (stage, done) = (Stage::Verify, AtomicU64::new(0));
    let running = Running::begin(&*app.reporter, stage, (0, "bytes"), 0);
    let report = exec::repair(&root, args.dry_run, &app.cancel, &|bytes| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        app.reporter.event(Event::Progress { stage, done, tokens: 0 });
    })
    .await?;
    running.end(format!("{} hashed", format::bytes(report.bytes)));
    app.answer(args.json, &report, describe).context(|| match args.dry_run {
        true => "nothing was deleted",
        false => "damaged files are taken out, but the report could not be printed",
    })
}

fn describe(report: &RepairReport) -> String {
    let mut out = format!("{} hashed, ", format::counted(report.files, "file"));
    if report.damaged.is_empty() && report.receipts.is_empty() {
        return out + "every byte of them as written; `snapshot verify` finds what is missing\n";
    }
    let verb = if report.dry_run { "would delete" } else { "deleted" };
    out.push_str(&format!("{} damaged\n", format::count(report.damaged.len() as u64)));
    for key in report.damaged.iter().chain(&report.useless).chain(&report.receipts) {
        out.push_str(&format!("  {verb} {key}\n"));
    }
    out.push_str("the next run makes again what was in them\n");
    if report.damaged.iter().any(|key| layout::tower_of(key).is_some()) {
        out.push_str(
            "it adapts the query tower again; until then the snapshots that name it take vectors, not text\n",
        );
    }
    out
}
