//! `scalingnote search`.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::app::App;
use super::args::{number, place, root};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::format;
use crate::search::{Answer, Hit, QueryEncoder, Snapshot};
use crate::tower::DeviceSpec;

/// Search the newest snapshot
///
/// Encodes the text with the tower that the snapshot names, searches every shard, rescores the
/// candidates, and prints the rank, score, note id and stored columns of each hit.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote search pipelines/quickstart.toml \"sql injection\" -k 3
  scalingnote search /data/notes-root \"how to bake bread\" --json | jq -r '.hits[].note_id'
  scalingnote search s3://bucket/notes \"tax return\" --snapshot 41 --exact
  scalingnote search /data/notes-root \"tax return\" --where \"lang = 'en' AND like_count > 10\"")]
pub(crate) struct SearchArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Text to search for.
    text: String,
    /// Number of notes to return.
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    k: u32,
    /// Compare with every vector instead of using the index.
    #[arg(long)]
    exact: bool,
    /// Return only notes whose stored columns match this SQL condition, e.g. "lang = 'en' AND
    /// like_count > 10".
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Search this snapshot instead of the newest one.
    #[arg(long, value_name = "N", value_parser = number::snapshot)]
    snapshot: Option<u64>,
    /// Accept only snapshots signed with this Ed25519 key (PEM file). Repeatable; a pipeline's own
    /// keys are accepted too.
    #[arg(long = "public-key", value_name = "FILE", value_parser = place::path())]
    public_keys: Vec<PathBuf>,
    /// Where the tower's files are, if not where the snapshot says.
    #[arg(long, value_name = "PATH", value_parser = place::text())]
    model: Option<String>,
}

pub(super) async fn execute(args: SearchArgs, app: &App) -> Result<()> {
    if args.text.trim().is_empty() {
        return Err(Error::usage("the text to look for is empty"));
    }
    let opened = root::open_trusting(&args.root, &args.public_keys)?;
    let (model, base_dir) = opened.tower_files(args.model)?;
    let snapshot = Snapshot::open(&opened.root, args.snapshot, &root::cache_dir()?).await?;
    // Before the tower is loaded: a wrong condition should not cost that wait.
    let passing = args.condition.as_deref().map(|condition| snapshot.passing(condition));
    let passing = passing.transpose().map_err(|error| match error.kind() {
        ErrorKind::Input | ErrorKind::Config => {
            Error::usage("--where cannot be used").with_source(error)
        }
        _ => error,
    })?;
    let encoder = QueryEncoder::load(
        &opened.root,
        snapshot.manifest(),
        model.as_deref(),
        &base_dir,
        &DeviceSpec::Cpu { threads: 0 },
        &app.reporter,
    )
    .await?;
    let vector = encoder.encode(&args.text)?;
    let found = match &passing {
        None => snapshot.search_vector(&vector, args.k as usize, args.exact)?,
        Some(passing) => snapshot.search_among(&vector, args.k as usize, args.exact, passing)?,
    };
    let answer = Answer {
        snapshot: snapshot.manifest().number,
        query_tower: Some(encoder.tower().fingerprint.to_hex()),
        hits: Hit::ranked(found),
    };
    app.answer(args.json, &answer, |answer| table(&answer.hits))
}

/// Rank, score, id, then the stored columns; long values are cut.
fn table(hits: &[Hit]) -> String {
    let Some(first) = hits.first() else {
        return "no notes: the snapshot is empty, or none fulfils the condition\n".to_owned();
    };
    let columns: Vec<&String> = first.stored.keys().collect();
    let mut header = vec!["rank", "score", "note_id"];
    header.extend(columns.iter().map(|name| name.as_str()));
    let rows: Vec<Vec<String>> = hits
        .iter()
        .map(|hit| {
            let mut row =
                vec![hit.rank.to_string(), format!("{:.4}", hit.score), cell(&hit.note_id)];
            row.extend(
                columns.iter().map(|name| hit.stored.get(*name).map(cell).unwrap_or_default()),
            );
            row
        })
        .collect();
    format::table(&header, &[true, true], &rows)
}

/// Longest value that a table shows, in characters.
const CELL: usize = 80;

fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::search::Found;
    use crate::types::NoteId;

    #[test]
    fn a_table_shows_stored_columns_and_cuts_long_values() {
        let stored = Map::from_iter([("title".to_owned(), Value::from("笔".repeat(100)))]);
        let found = Found { note_id: NoteId::Int(89), chunk: 0, score: 0.5, stored };
        let text = table(&Hit::ranked(vec![found]));
        assert!(
            text.contains("note_id") && text.contains("0.5000") && text.contains("89"),
            "{text}"
        );
        assert!(text.contains(&format!("{}…", "笔".repeat(80))), "{text}");
        assert!(table(&[]).contains("empty"));
    }
}
