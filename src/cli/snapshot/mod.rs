//! `scalingnote snapshot list|show|diff|verify|rollback|gc`.

mod inspect;
mod manage;
mod verify;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::App;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Manifest, newest, read};
use crate::store::Root;

/// List, compare, verify, roll back and clean up published snapshots
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  scalingnote snapshot list pipelines/quickstart.toml
  scalingnote snapshot show s3://bucket/notes 41 --json | jq .content.notes
  scalingnote snapshot diff daily.toml 41 42 --notes
  scalingnote snapshot verify daily.toml --sample 100
  scalingnote snapshot rollback daily.toml 41 --reason \"42 lost the French notes\"
  scalingnote snapshot gc daily.toml --dry-run

ROOT is a root URI, a path, or a pipeline file (then its own root and retention are used)."
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
    Rollback(manage::RollbackArgs),
    Gc(manage::GcArgs),
}

pub(super) async fn execute(args: SnapshotArgs, app: &App) -> Result<ExitCode> {
    match args.command {
        SnapshotCommand::List(args) => inspect::list(&args, app).await,
        SnapshotCommand::Show(args) => inspect::show(&args, app).await,
        SnapshotCommand::Diff(args) => inspect::diff(&args, app).await,
        SnapshotCommand::Verify(args) => verify::verify(&args, app).await,
        SnapshotCommand::Rollback(args) => manage::rollback(&args, app).await,
        SnapshotCommand::Gc(args) => manage::gc(&args, app).await,
    }
}

/// The manifest with this number, or the newest.
pub(super) async fn named(root: &Root, number: Option<u64>) -> Result<Manifest> {
    match number {
        Some(number) => read(root, number).await,
        None => newest(root).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("{} holds no snapshot yet; `scalingnote run` publishes one", root.uri()),
            )
        }),
    }
}
