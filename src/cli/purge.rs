//! `scalingnote purge`.

use std::path::PathBuf;

use clap::Args;

use super::app::App;
use super::args::{place, root};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec;
use crate::observe::format;
use crate::stage::{self, PurgeReport, PurgeRequest};
use crate::store::named::{read_text, read_text_of};
use crate::types::NoteId;

/// Largest list of note ids that is read.
const MAX_IDS: u64 = 256 << 20;

/// Remove notes from everything stored, and prove that they are gone
///
/// Their text, vectors, index entries and stored columns are removed from the root: a snapshot
/// without them is published, and whatever held them, older snapshots included, is deleted at once,
/// without a grace period. Then every remaining object is checked. Exits with 1 if anything of the
/// notes is found.
///
/// The notes get a tombstone, so later runs leave them out even if the corpus still returns them. A
/// purge refuses to start while a run of this root is in progress. To finish an interrupted purge,
/// run the same command again.
///
/// Only what this program made is deleted. Other files below the root, and other roots there, are
/// checked too, and are listed (LEFT) if they hold the note.
///
/// Work that was planned before a purge is void: it stops, and deletes what it wrote. If it dies
/// before it can do that, the next run, `snapshot gc` and --scan find what it left behind.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote purge daily.toml --note-id i:42 --dry-run
  scalingnote purge s3://bucket/notes --note-id i:42 --note-id s:a7 --json > proof.json
  scalingnote purge daily.toml --from erased.txt
  scalingnote purge daily.toml --note-id i:42 --lift
  scalingnote purge daily.toml --scan

A note id includes its type: i:42 is the integer 42, s:42 the string. A file has one id per line.")]
pub(crate) struct PurgeArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Note to remove; repeatable.
    #[arg(long = "note-id", value_name = "ID")]
    note_ids: Vec<String>,
    /// File of note ids, one per line; `-` is stdin.
    #[arg(long, value_name = "FILE", value_parser = place::path())]
    from: Option<PathBuf>,
    /// Show what would be deleted, without changing anything.
    #[arg(long)]
    dry_run: bool,
    /// Allow the next run to index these purged notes again.
    #[arg(long, conflicts_with = "dry_run")]
    lift: bool,
    /// Search everything stored for purged notes that have come back, and purge them again.
    #[arg(long, conflicts_with_all = ["note_ids", "from", "lift"])]
    scan: bool,
    /// Print the report as JSON, including every deleted object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: PurgeArgs, app: &App) -> Result<()> {
    let notes = if args.scan { Vec::new() } else { notes(&args)? };
    let root = root::open_to_write(&args.root, args.dry_run)?.root;
    if args.lift {
        let lifted = stage::lift(&root, &notes).await?;
        let found = serde_json::json!({ "snapshot": lifted });
        let printed = app.answer(args.json, &found, |_| match lifted {
            Some(number) => format!(
                "snapshot {number} lets them come back: the next run indexes them where the corpus has them\n"
            ),
            None => "none of these notes was purged; nothing to lift\n".to_owned(),
        });
        return printed.context(|| "the command is done, but that could not be printed");
    }
    let request = PurgeRequest {
        root: &root,
        notes: &notes,
        dry_run: args.dry_run,
        reporter: app.reporter.clone(),
        cancel: app.cancel.clone(),
    };
    let report = match args.scan {
        true => exec::purge_again(request, true).await?,
        false => exec::purge(request).await?,
    };
    let left = report.left.first().map(|first| {
        Error::corrupt(format!(
            "something of the notes is left in {} of {}, the first is {} ({}); check the files that are not this \
             program's, stop what writes to the root, and purge again",
            format::counted(report.left.len() as u64, "object"),
            root.uri(),
            first.key,
            first.what
        ))
    });
    let printed = app.answer(args.json, &report, describe).context(|| match args.dry_run {
        true => "nothing was purged",
        false => "the purge has ended, but the report that proves it could not be printed",
    });
    app.ends(printed, left)
}

fn notes(args: &PurgeArgs) -> Result<Vec<NoteId>> {
    let mut ids: Vec<(String, String)> =
        args.note_ids.iter().map(|id| (String::new(), id.clone())).collect();
    if let Some(file) = &args.from {
        let text = match file.as_os_str() == "-" {
            true => read_text_of(std::io::stdin().lock(), MAX_IDS),
            false => read_text(file, MAX_IDS),
        };
        let text = text
            .or_error(ErrorKind::Usage, || format!("reading the note ids in {}", file.display()))?;
        // Some editors begin a file with a byte order mark.
        let text = text.trim_start_matches('\u{feff}');
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let place = |at: usize| format!("{}:{}: ", file.display(), at + 1);
        ids.extend(lines.map(|(at, line)| (place(at), line.to_owned())));
    }
    if ids.is_empty() {
        return Err(Error::usage(
            "no note is named; give --note-id i:42, or --from a file with one id a line",
        ));
    }
    let mut notes = Vec::with_capacity(ids.len());
    for (place, id) in ids {
        let trimmed = id.trim_end_matches('\r');
        let note: NoteId = trimmed.parse().map_err(|_: Error| {
            Error::usage(format!(
                "{place}`{trimmed}` is not a note id: i:42 is the integer 42, s:42 the string"
            ))
        })?;
        // `i:007` would be looked for under another name than it is stored.
        if note.to_string() != trimmed {
            return Err(Error::usage(format!(
                "{place}`{trimmed}` is not how that note id is stored; write `{note}`"
            )));
        }
        notes.push(note);
    }
    notes.sort();
    notes.dedup();
    Ok(notes)
}

fn describe(report: &PurgeReport) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    if report.notes == 0 {
        line(format!(
            "no purged note is stored again; checked {}",
            format::counted(report.scanned.objects, "object")
        ));
        return out;
    }
    let known = report.notes - report.unknown.len() as u64;
    let (notes, objects) =
        (format::counted(known, "note"), format::counted(report.deleted.len() as u64, "object"));
    let bytes = format::bytes(report.deleted_bytes);
    let snapshots = match &report.dropped_snapshots[..] {
        [] => "no snapshot".to_owned(),
        list => {
            let list: Vec<String> = list.iter().map(u64::to_string).collect();
            format!("snapshots {}", list.join(", "))
        }
    };
    for note in &report.unknown {
        line(format!("note {note}: nothing of it is stored here; check the id"));
    }
    for shared in &report.shared {
        line(format!(
            "note {}: note {} has the very same text, so that text's vector stays, under that note",
            shared.note, shared.also
        ));
    }
    if report.dry_run {
        line(format!("would purge {notes} and delete {snapshots}; {objects}, {bytes}"));
        report.deleted.iter().for_each(|key| line(format!("  {key}")));
        return out;
    }
    match report.snapshot {
        Some(number) => line(format!("purged {notes}; published snapshot {number}")),
        None => line(format!("purged {notes}; no snapshot had to be published")),
    }
    line(format!("deleted {snapshots}; {objects}, {bytes}"));
    line(format!(
        "copied {}, built {}",
        format::counted(report.parts_rewritten, "part"),
        match report.indexes_rebuilt {
            1 => "1 index".to_owned(),
            built => format!("{} indexes", format::count(built)),
        }
    ));
    let scanned = &report.scanned;
    line(format!(
        "checked all of {}: {} of {}, {} of {}, {}, {} of others",
        format::counted(scanned.objects, "object"),
        format::counted(scanned.rows, "row"),
        format::counted(scanned.parquet_files, "Parquet file"),
        format::counted(scanned.keys, "key"),
        format::counted(scanned.index_files, "index file"),
        format::counted(scanned.text_files, "other file"),
        format::counted(scanned.foreign_files, "file")
    ));
    if report.left.is_empty() {
        line("nothing of the notes is left".to_owned());
        line("what this cannot reach:".to_owned());
        line("  readers hold the old snapshot until their next poll; restart those that must not, and empty their caches".to_owned());
        line(match report.tombstoned {
            true => "  the source: delete the notes there too; until then a tombstone keeps them out of every run".to_owned(),
            false => "  the source: delete the notes there before the next run, which would store them: a root without a snapshot \
                keeps no tombstones"
                .to_owned(),
        });
        line("  old versions of a versioned bucket, and backups".to_owned());
    }
    for left in &report.left {
        line(format!("LEFT {}: {}", left.key, left.what));
    }
    out
}
