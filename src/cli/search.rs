//! `scalingnote search`.

use std::process::ExitCode;

use clap::Args;

use super::App;
use crate::error::Result;

/// Search the newest snapshot for a text
///
/// Encodes the text with the tower that the snapshot names, searches every shard, rescores, and
/// prints rank, score, note id and the stored columns.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote search pipelines/quickstart.toml \"sql injection\" -k 3
  scalingnote search /data/notes-root \"how to bake bread\" --json | jq -r '.hits[].note_id'
  scalingnote search s3://bucket/notes \"tax return\" --snapshot 41 --exact")]
pub(crate) struct SearchArgs {
    /// Root URI or path, or a pipeline file.
    root: String,
    /// What to look for.
    text: String,
    /// How many notes.
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    k: u32,
    /// Compare with every vector instead of walking the index.
    #[arg(long)]
    exact: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Search this snapshot instead of the newest.
    #[arg(long, value_name = "N")]
    snapshot: Option<u64>,
    /// The tower's files, where they do not lie where the snapshot says.
    #[arg(long, value_name = "PATH")]
    model: Option<String>,
}

pub(super) async fn execute(args: SearchArgs, app: &App) -> Result<ExitCode> {
    let _ = (&args.text, args.k, args.exact, args.json, args.snapshot, &args.model, app);
    let _opened = super::root::open(&args.root)?;
    Err(crate::error::Error::new(
        crate::error::ErrorKind::Unsupported,
        "search is not part of this build",
    ))
}
