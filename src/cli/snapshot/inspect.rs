//! `snapshot list|show|diff`: reading only.

use std::fmt::Write as _;

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::{number, place, root};
use crate::cli::tower::card_rows;
use crate::config::word;
use crate::error::Result;
use crate::observe::format;
use crate::snapshot::{self, Diff, Manifest, NoteDiff};
use crate::stage::SetScore;

/// List all snapshots, newest last
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Show one snapshot: the newest, or the one with this number
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Snapshot number.
    #[arg(value_parser = number::snapshot)]
    number: Option<u64>,
    /// Print the manifest itself.
    #[arg(long)]
    json: bool,
}

/// Show what changed from one snapshot to another
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// The older snapshot.
    #[arg(value_parser = number::snapshot)]
    from: u64,
    /// The newer snapshot; defaults to the newest one.
    #[arg(value_parser = number::snapshot)]
    to: Option<u64>,
    /// Compare note by note, by reading the id files of the shards that differ.
    #[arg(long)]
    notes: bool,
    /// Number of note ids to show of each kind with --notes.
    #[arg(long, value_name = "N", default_value_t = 10, requires = "notes")]
    samples: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(args: &ListArgs, app: &App) -> Result<()> {
    let root = root::open(&args.root)?.root;
    let mut rows = Vec::new();
    let mut out = Vec::new();
    for number in snapshot::numbers(&root).await? {
        let manifest = snapshot::read(&root, number).await?;
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
            moment(&manifest.provenance.created_at),
            format::count(content.notes),
            format::count(content.vectors),
            content.shard_count.to_string(),
            content.space_id.to_string(),
            manifest.provenance.run.clone(),
        ]);
    }
    app.answer(args.json, &out, |_| match rows.is_empty() {
        true => format!("{} holds no snapshot yet\n", root.uri()),
        false => {
            let header =
                ["number", "parent", "created", "notes", "vectors", "shards", "space", "by"];
            let right = [true, true, false, true, true, true, false, false];
            format::table(&header, &right, &rows)
        }
    })
}

pub(super) async fn show(args: &ShowArgs, app: &App) -> Result<()> {
    let opened = root::open(&args.root)?;
    let manifest = opened.manifest(args.number).await?;
    // A web server that does not list its files cannot say.
    let signed = snapshot::signed_by(&opened.root, manifest.number).await.unwrap_or_default();
    app.answer(args.json, &manifest, |manifest| describe(manifest, &signed))
}

/// RFC 3339 to the second; what does not parse stays as it is.
fn moment(created_at: &str) -> String {
    chrono::DateTime::parse_from_rfc3339(created_at).map_or_else(
        |_| created_at.to_owned(),
        |at| at.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    )
}

fn describe(manifest: &Manifest, signed: &[String]) -> String {
    let (content, provenance) = (&manifest.content, &manifest.provenance);
    let space = &content.space;
    let mut out = String::new();
    let mut field = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    field("snapshot", manifest.number.to_string());
    field("parent", manifest.parent.map_or_else(|| "none".to_owned(), |n| n.to_string()));
    field("content", manifest.content_hash.to_hex());
    field("created", format!("{} on {}", moment(&provenance.created_at), provenance.host));
    field("by", format!("{} ({})", provenance.run, provenance.program));
    if let Some(run) = provenance.made_by().filter(|run| *run != provenance.run) {
        field("made by", run.to_owned());
    }
    // Files are too many to name; a table is read at one version, or by one statement.
    for input in &provenance.inputs {
        let text = |name: &str| input.get(name).and_then(serde_json::Value::as_str);
        if let (Some(table), Some(read), Some(uri)) = (text("table"), text("read"), text("uri")) {
            field("table", format!("{table}: {read} ({uri})"));
        }
    }
    field("notes", format::count(content.notes));
    field("vectors", format!("{} x {}", format::count(content.vectors), space.dimensions));
    let (pooling, arithmetic) = (word(&space.pooling), word(&space.arithmetic));
    field("space", format!("{} ({pooling}, {arithmetic})", content.space_id));
    if let Some(card) = provenance.card() {
        for (name, value, by) in card_rows(&card) {
            field(name, if by.is_empty() { value } else { format!("{value} ({by})") });
        }
    }
    field("shards", content.shard_count.to_string());
    let parts: u64 = content.parts.iter().map(|file| file.size).sum();
    let all: u64 = content.files().map(|file| file.size).sum();
    field("indexes", format::bytes(all.saturating_sub(parts)));
    field(
        "parts",
        format!("{}, {}", format::count(content.parts.len() as u64), format::bytes(parts)),
    );
    for tower in &content.query_towers {
        field("query tower", format!("{} {}", tower.kind, tower.fingerprint.short()));
    }
    if !signed.is_empty() {
        field("signed by", format!("key {}", signed.join(", ")));
    }
    if let Some(score) = SetScore::told(provenance) {
        field("asked", score.to_string());
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

pub(super) async fn diff(args: &DiffArgs, app: &App) -> Result<()> {
    let opened = root::open(&args.root)?;
    let from = opened.manifest(Some(args.from)).await?;
    let to = opened.manifest(args.to).await?;
    let diff = snapshot::diff(&from, &to);
    let notes = match args.notes {
        true => Some(snapshot::diff_ids(&opened.root, &from, &to, args.samples).await?),
        false => None,
    };
    let mut json = serde_json::json!({ "snapshots": diff });
    if let Some(notes) = &notes {
        json["notes"] = serde_json::json!(notes);
    }
    app.answer(args.json, &json, |_| compare(&diff, notes.as_ref()))
}

fn compare(diff: &Diff, notes: Option<&NoteDiff>) -> String {
    let mut out = format!("snapshot {} -> {}\n", diff.from, diff.to);
    let mut field = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<14} {value}");
    };
    if diff.same_content {
        field("content", "the same".to_owned());
        return out;
    }
    let counts = |[a, b]: [u64; 2]| {
        let sign = if b >= a { "+" } else { "-" };
        format!(
            "{} -> {} ({sign}{})",
            format::count(a),
            format::count(b),
            format::count(a.abs_diff(b))
        )
    };
    field("notes", counts(diff.notes));
    field("vectors", counts(diff.vectors));
    field("bytes", format!("{} -> {}", format::bytes(diff.bytes[0]), format::bytes(diff.bytes[1])));
    let [a, b] = diff.shard_counts;
    if a != b {
        field("shards", format!("{a} -> {b}: every index differs"));
    } else {
        let differ = |changed: usize| {
            let shards = format::counted(u64::from(b), "shard");
            format!("{changed} of {shards} {}", if changed == 1 { "differs" } else { "differ" })
        };
        field("indexes", differ(diff.indexes_changed.len()));
        field("ids", differ(diff.ids_changed.len()));
        field("sources", differ(diff.sources_changed.len()));
        if !diff.canaries_changed.is_empty() {
            field("canaries", differ(diff.canaries_changed.len()));
        }
    }
    let read = |full: u32, all: u32| match full {
        0 => "none".to_owned(),
        full if full == all => "all".to_owned(),
        full => format!("{full} of {all}"),
    };
    let [before, after] = [read(diff.read_in_full[0], a), read(diff.read_in_full[1], b)];
    if before != after {
        let others = "the others by corpus.mode = \"delta\", or purged since";
        field("read in full", format!("{before} -> {after} of the shards; {others}"));
    }
    let parts = |(count, bytes): (usize, u64)| {
        format!("{} ({})", format::count(count as u64), format::bytes(bytes))
    };
    field("parts", format!("+{} -{}", parts(diff.parts_added), parts(diff.parts_removed)));
    let lists = [
        ("space", diff.space_changed.join(", ")),
        ("index options", diff.index_options_changed.join(", ")),
        ("new columns", diff.columns_added.join(", ")),
        ("lost columns", diff.columns_removed.join(", ")),
        ("column order", said(diff.columns_reordered, "differs")),
        ("new towers", shorts(&diff.towers_added)),
        ("lost towers", shorts(&diff.towers_removed)),
        ("changed towers", shorts(&diff.towers_changed)),
        ("scale", said(diff.calibration_changed, "refitted")),
        ("corpus.sql", said(diff.sql_changed, "differs")),
        ("corpus.types", said(diff.types_changed, "other types are recorded")),
    ];
    for (name, value) in lists {
        if !value.is_empty() {
            field(name, value);
        }
    }
    if let Some(notes) = notes {
        for (name, count, ids) in [
            ("added", notes.added, &notes.added_ids),
            ("removed", notes.removed, &notes.removed_ids),
            ("changed", notes.changed, &notes.changed_ids),
        ] {
            let more = if count > ids.len() as u64 && !ids.is_empty() { ", ..." } else { "" };
            field(
                name,
                format!("{}  {}{more}", format::count(count), ids.join(", ")).trim().to_owned(),
            );
        }
    }
    out
}

fn said(differs: bool, how: &str) -> String {
    if differs { how.to_owned() } else { String::new() }
}

fn shorts(digests: &[crate::types::Digest256]) -> String {
    digests.iter().map(crate::types::Digest256::short).collect::<Vec<_>>().join(", ")
}
