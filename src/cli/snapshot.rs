//! `scalingnote snapshot list|show|...`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::App;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::format;
use crate::snapshot::{Manifest, newest, numbers, read};
use crate::store::Root;

/// List, inspect, verify and manage published snapshots
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  scalingnote snapshot list pipelines/quickstart.toml
  scalingnote snapshot show s3://bucket/notes 41 --json | jq .content.notes"
)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// All snapshots, newest last
    List {
        /// Root URI or path, or a pipeline file.
        root: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// One snapshot: the newest, or the one with this number
    Show {
        /// Root URI or path, or a pipeline file.
        root: String,
        /// Snapshot number.
        number: Option<u64>,
        /// Print the manifest itself.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn execute(args: SnapshotArgs, app: &App) -> Result<ExitCode> {
    match args.command {
        SnapshotCommand::List { root, json } => {
            list(&super::root::open(&root)?.root, json, app).await
        }
        SnapshotCommand::Show { root, number, json } => {
            show(&super::root::open(&root)?.root, number, json, app).await
        }
    }
}

async fn named(root: &Root, number: Option<u64>) -> Result<Manifest> {
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

async fn list(root: &Root, json: bool, app: &App) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let mut out = Vec::new();
    for number in numbers(root).await? {
        let manifest = read(root, number).await?;
        let content = &manifest.content;
        out.push(serde_json::json!({
            "number": manifest.number,
            "parent": manifest.parent,
            "created_at": manifest.provenance.created_at,
            "run": manifest.provenance.run,
            "notes": content.notes,
            "vectors": content.vectors,
            "shards": content.shard_count,
            "space": content.space_id,
            "content_hash": manifest.content_hash,
        }));
        rows.push(vec![
            number.to_string(),
            manifest.parent.map_or_else(|| "-".to_owned(), |parent| parent.to_string()),
            manifest.provenance.created_at.clone(),
            format::count(content.notes),
            format::count(content.vectors),
            content.shard_count.to_string(),
            content.space_id.to_string(),
            manifest.provenance.run.clone(),
        ]);
    }
    if json {
        app.console.print(&pretty(&out)?);
    } else {
        let header = ["number", "parent", "created", "notes", "vectors", "shards", "space", "by"];
        let right = [true, true, false, true, true, true, false, false];
        app.console.print(&format::table(&header, &right, &rows));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(root: &Root, number: Option<u64>, json: bool, app: &App) -> Result<ExitCode> {
    let manifest = named(root, number).await?;
    app.console.print(&if json { pretty(&manifest)? } else { describe(&manifest) });
    Ok(ExitCode::SUCCESS)
}

fn pretty<T: serde::Serialize>(value: &T) -> Result<String> {
    let mut text =
        serde_json::to_string_pretty(value).or_error(ErrorKind::Internal, || "writing JSON")?;
    text.push('\n');
    Ok(text)
}

fn describe(manifest: &Manifest) -> String {
    use std::fmt::Write as _;
    let (content, provenance) = (&manifest.content, &manifest.provenance);
    let space = &content.space;
    let bytes = |files: &mut dyn Iterator<Item = u64>| format::bytes(files.sum());
    let mut out = String::new();
    let parent = manifest.parent.map_or_else(|| "none".to_owned(), |n| n.to_string());
    let mut field = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<14} {value}");
    };
    field("snapshot", manifest.number.to_string());
    field("parent", parent);
    field("content", manifest.content_hash.to_hex());
    field("created", format!("{} on {}", provenance.created_at, provenance.host));
    field("by", format!("{} ({})", provenance.run, provenance.program));
    field("notes", format::count(content.notes));
    field("vectors", format!("{} x {}", format::count(content.vectors), space.dimensions));
    field("space", format!("{} ({:?}, {:?})", content.space_id, space.pooling, space.arithmetic));
    field("shards", content.shard_count.to_string());
    let index_bytes = bytes(&mut content.shards.iter().flat_map(|shard| {
        [shard.index.as_ref(), shard.sidecar.as_ref(), Some(&shard.ids)]
            .into_iter()
            .flatten()
            .map(|file| file.size)
    }));
    field("indexes", index_bytes);
    field(
        "parts",
        format!(
            "{}, {}",
            format::count(content.parts.len() as u64),
            bytes(&mut content.parts.iter().map(|file| file.size))
        ),
    );
    for tower in &content.query_towers {
        field("query tower", format!("{} {}", tower.kind, tower.fingerprint.short()));
    }
    for gate in &provenance.gates {
        let verdict = match (&gate.overridden, gate.passed) {
            (Some(reason), _) => format!("OVERRIDDEN ({reason})"),
            (None, true) => "passed".to_owned(),
            (None, false) => "REFUSED".to_owned(),
        };
        field("gate", format!("{} {verdict}: {}", gate.gate, gate.detail));
    }
    out
}
