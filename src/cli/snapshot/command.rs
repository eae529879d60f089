//! `scalingnote snapshot`: its subcommands, and which file carries them out.

use clap::{Args, Subcommand};

use super::{compare, copy, inspect, manage, repair, verify};
use crate::cli::app::App;
use crate::error::Result;

/// List, compare, verify, copy, repair, roll back and clean up published snapshots
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  scalingnote snapshot list pipelines/quickstart.toml
  scalingnote snapshot show s3://bucket/notes 41 --json | jq .content.notes
  scalingnote snapshot diff daily.toml 41 42 --notes
  scalingnote snapshot verify daily.toml --sample 100
  scalingnote snapshot compare daily.toml 41 42 --queries queries.jsonl --by lang
  scalingnote snapshot copy s3://staging/notes s3://production/notes
  scalingnote snapshot repair daily.toml --dry-run
  scalingnote snapshot rollback daily.toml 41 --reason \"42 lost the French notes\"
  scalingnote snapshot gc daily.toml --dry-run
  SCALINGNOTE_SIGNING_KEY_FILE=new.pem scalingnote snapshot sign daily.toml

ROOT is a root URI, a path, or a pipeline file, whose root and retention are then used."
)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    List(inspect::ListArgs),
    Show(inspect::ShowArgs),
    Diff(inspect::DiffArgs),
    Verify(verify::VerifyArgs),
    Compare(compare::CompareArgs),
    Copy(copy::CopyArgs),
    Repair(repair::RepairArgs),
    Rollback(manage::RollbackArgs),
    Gc(manage::GcArgs),
    Sign(manage::SignArgs),
}

pub(crate) async fn execute(args: SnapshotArgs, app: &App) -> Result<()> {
    match args.command {
        SnapshotCommand::List(args) => inspect::list(&args, app).await,
        SnapshotCommand::Show(args) => inspect::show(&args, app).await,
        SnapshotCommand::Diff(args) => inspect::diff(&args, app).await,
        SnapshotCommand::Verify(args) => verify::verify(&args, app).await,
        SnapshotCommand::Compare(args) => compare::compare(args, app).await,
        SnapshotCommand::Copy(args) => copy::copy(&args, app).await,
        SnapshotCommand::Repair(args) => repair::repair(&args, app).await,
        SnapshotCommand::Rollback(args) => manage::rollback(&args, app).await,
        SnapshotCommand::Gc(args) => manage::gc(&args, app).await,
        SnapshotCommand::Sign(args) => manage::sign(&args, app).await,
    }
}
