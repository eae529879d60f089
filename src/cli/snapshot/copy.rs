//! `snapshot copy`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::{number, place, root};
use crate::error::{Result, ResultExt};
use crate::exec;
use crate::observe::format;
use crate::stage::{CopyReport, CopyRequest};

/// Copy one snapshot to another root, for example from staging to production
///
/// Sends only the files that the other root lacks, and hashes each on the way. The manifest comes
/// last, under the next number there, so readers see the whole snapshot or nothing. If a copy is
/// interrupted, run the same command again: what has been sent is not sent again. If the other root
/// already serves this content, there is nothing to do.
///
/// Exits with 3 if the other root serves another embedding space (see --switch-tower), has rolled
/// this content back, or has purged notes that are in it. Exits with 75 if a run or another copy is
/// in progress there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote snapshot copy s3://staging/notes s3://production/notes
  scalingnote snapshot copy staging.toml /mnt/offline/notes --snapshot 41 --dry-run
  SCALINGNOTE_SIGNING_KEY_FILE=notes.pem scalingnote snapshot copy staging.toml production.toml --public-key staging.pub

Each root keeps its own numbers, tombstones, rollbacks and signatures. A query tower that was
adapted to the notes is stored in the root and is copied too. The files of any other tower stay
where they are: the manifest names them, and they are not copied.")]
pub(super) struct CopyArgs {
    /// Root URI or path to copy from, or a pipeline file.
    #[arg(value_parser = place::text())]
    from: String,
    /// Root URI or path to copy to, or a pipeline file; a missing folder is created.
    #[arg(value_parser = place::text())]
    to: String,
    /// Snapshot to copy; defaults to the newest.
    #[arg(long, value_name = "N", value_parser = number::snapshot)]
    snapshot: Option<u64>,
    /// Copy even if the other root serves another embedding space.
    #[arg(long)]
    switch_tower: bool,
    /// Show what would be sent, without copying anything.
    #[arg(long)]
    dry_run: bool,
    /// Accept only snapshots signed with this Ed25519 key (PEM file). Repeatable; a pipeline's own
    /// keys are accepted too.
    #[arg(long = "public-key", value_name = "FILE", value_parser = place::path())]
    public_keys: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn copy(args: &CopyArgs, app: &App) -> Result<()> {
    let from = root::open_trusting(&args.from, &args.public_keys)?;
    let number = match args.snapshot {
        Some(number) => number,
        None => from.manifest(None).await?.number,
    };
    let to = root::open_or_begin(&args.to)?.root;
    let request = CopyRequest {
        from: &from.root,
        number,
        to: &to,
        switch_tower: args.switch_tower,
        dry_run: args.dry_run,
        reporter: app.reporter.clone(),
        cancel: app.cancel.clone(),
    };
    let report = exec::copy(request).await?;
    app.answer(args.json, &report, describe).context(|| match args.dry_run {
        true => "nothing was copied",
        false => "the snapshot is copied, but the report could not be printed",
    })
}

fn describe(report: &CopyReport) -> String {
    let CopyReport { source, from, to, .. } = report;
    let files = |files: u64, bytes: u64| {
        format!("{}, {}", format::counted(files, "file"), format::bytes(bytes))
    };
    let sent = files(report.sent_files, report.sent_bytes);
    let kept = files(report.kept_files, report.kept_bytes);
    match report.snapshot {
        Some(number) if report.already => {
            format!(
                "snapshot {number} of {to} serves the content of snapshot {source} of {from} already; nothing to copy\n"
            )
        }
        Some(number) => format!(
            "snapshot {number} of {to} serves the content of snapshot {source} of {from}\nsent   {sent}\nthere  {kept}\n"
        ),
        None => {
            format!("snapshot {source} of {from} to {to}\nwould send  {sent}\nthere       {kept}\n")
        }
    }
}
