//! `scalingnote explain`.

use clap::Args;

use super::app::App;
use super::args::{PipelineArgs, root};
use crate::error::{Error, Result};
use crate::exec::{self, ExplainRequest, Explained};
use crate::observe::format::{self, counted};
use crate::types::NoteId;

/// Show what became of a note, and why
///
/// Reads the corpus as the next run would and looks into the newest snapshot. Shows the files that
/// the note comes from, whether its row was rejected, deleted or replaced by a newer one, the hash
/// of its text, its shard, key, index, part and row, whether it was purged, and for a query its
/// rank by the graph and by comparison with every vector. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote explain daily.toml 42
  scalingnote explain daily.toml s:42 --query \"tax return\"
  scalingnote explain daily.toml i:42 --text --json | jq .corpus.texts

i:42 is the integer 42, s:42 the string; without a type, either is found. The note's text is shown
only with --text.")]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The note's id.
    note: String,
    /// Show the note's rank for this query.
    #[arg(long)]
    query: Option<String>,
    /// Show the note's text as it is in the corpus now.
    #[arg(long)]
    text: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: ExplainArgs, app: &App) -> Result<()> {
    let note = note_of(&args.note)?;
    if args.query.as_ref().is_some_and(|query| query.trim().is_empty()) {
        return Err(Error::usage("the query to rank it for is empty"));
    }
    let pipeline = args.pipeline.resolve()?.pipeline;
    let root = pipeline.open_root()?;
    let cache = root::cache_dir()?;
    let request = ExplainRequest {
        pipeline: &pipeline,
        root: &root,
        note: &note,
        query: args.query.as_deref(),
        text: args.text,
        cache: &cache,
        reporter: &app.reporter,
        cancel: &app.cancel,
    };
    let mut found = exec::explain(&request).await?;
    // Who leaves the type out takes either.
    if args.note.parse::<NoteId>().is_ok_and(|asked| asked.to_string() != found.note) {
        let why = format!("there is no note {note}; showing {} instead", found.note);
        found.because.insert(0, why);
    }
    app.answer(args.json, &found, table)
}

/// An id with its type, or one that reads as a number or as a text.
fn note_of(text: &str) -> Result<NoteId> {
    if text.is_empty() || text == "s:" {
        return Err(Error::usage("the note's id is empty"));
    }
    if let Ok(tagged) = text.parse::<NoteId>() {
        return Ok(tagged);
    }
    let plain = NoteId::Str(text.to_owned());
    Ok(plain.of_other_type().unwrap_or(plain))
}

fn table(found: &Explained) -> String {
    let mut rows: Vec<(&str, String)> = vec![("note", found.note.clone())];
    let corpus = &found.corpus;
    if corpus.error.is_none() {
        let newer = match corpus.duplicates {
            0 => String::new(),
            duplicates if corpus.has_updated_at => format!(", {duplicates} of them older"),
            duplicates => format!(", {duplicates} of them left out"),
        };
        rows.push(("corpus", format!("{}{newer}", counted(corpus.rows, "row"))));
    }
    for file in &corpus.files {
        rows.push((
            "file",
            format!("{} (table {}, {})", file.uri, file.table, counted(file.rows, "row")),
        ));
    }
    for text in &corpus.texts {
        rows.push(("text", format!("chunk {}, SHA-256 {}", text.chunk, text.text_hash.to_hex())));
    }
    if let Some(seen) = &found.snapshot {
        rows.push(("snapshot", format!("{}, shard {}", seen.number, seen.shard)));
        for placed in &seen.vectors {
            let state = if placed.live { "" } else { ", replaced or removed since" };
            let segment = match placed.segment {
                0 => "base index".to_owned(),
                delta => format!("delta index {delta}"),
            };
            rows.push((
                "vector",
                format!("chunk {}, key {}, {segment}{state}", placed.chunk, placed.key),
            ));
            rows.push(("", format!("encoded text {}", placed.text_hash.to_hex())));
            rows.push(("", format!("index {}", placed.index)));
            rows.push(("", format!("part {} row {}", placed.part, placed.row)));
        }
        if let Some(same) = seen.same_text.as_ref().filter(|same| !same.is_empty()) {
            rows.push(("same text", same.join(", ")));
        }
    }
    if let Some(rank) = &found.rank {
        let place = |rank: Option<usize>| {
            rank.map_or("not among the first 10,000".to_owned(), |rank| rank.to_string())
        };
        let of = format::count(rank.notes);
        let score = rank.score.map_or_else(String::new, |score| format!(", score {score:.4}"));
        rows.push((
            "rank",
            format!(
                "{} of {of} by the graph, {} by exact search{score}",
                place(rank.graph),
                place(rank.exact)
            ),
        ));
    }
    rows.extend(found.because.iter().map(|sentence| ("why", sentence.clone())));
    let line = |(key, value): (&str, String)| format!("{key:<9} {}\n", format::printable(&value));
    let mut text: String = rows.into_iter().map(line).collect();
    for chunk in &corpus.texts {
        if let Some(of) = &chunk.text {
            text += &format!("\nthe text of chunk {}:\n", chunk.chunk);
            text.extend(of.lines().map(|line| format!("  {}\n", format::printable(line))));
        }
    }
    text
}
