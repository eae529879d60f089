//! `snapshot compare`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::{number, place, root};
use crate::dataset::{Query, read_queries};
use crate::error::{Error, ErrorKind, Result, ResultExt, not_written};
use crate::observe::{Event, Running, Stage, format};
use crate::report::{Asked, Changes, Comparison};
use crate::search::{Hit, NAME_MODEL, QueryEncoder, Snapshot};
use crate::tower::DeviceSpec;

/// Run the same queries on two snapshots and show what changes
///
/// Each query is encoded by the tower that each snapshot names. Reports how many hits both
/// snapshots have in common, which queries get a different first hit, how far notes move, how
/// scores differ, and which queries change most. Use it before you switch towers or promote a new
/// snapshot. Two query towers that share an embedding space are also tried on each other's
/// snapshot, which separates the effect of the corpus from that of the tower.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote snapshot compare daily.toml 41 42 --queries queries.jsonl
  scalingnote snapshot compare s3://bucket/notes 41 42 --queries asked.txt --by lang --html changes.html

Queries are JSON lines of {\"_id\", \"text\"} (.jsonl), or one query per line. Their texts are shown
only with --texts.")]
pub(super) struct CompareArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Snapshot before the change.
    #[arg(value_parser = number::snapshot)]
    before: u64,
    /// Snapshot after the change.
    #[arg(value_parser = number::snapshot)]
    after: u64,
    /// File with the queries to run.
    #[arg(long, value_name = "FILE", value_parser = place::path())]
    queries: PathBuf,
    /// Number of hits to compare for each query.
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    k: u32,
    /// Also break the results down by this stored column, by its value in the first hit of BEFORE.
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// Compare with every vector instead of using the indexes.
    #[arg(long)]
    exact: bool,
    /// Show the texts of the queries that change most.
    #[arg(long)]
    texts: bool,
    /// Also write the comparison as an HTML page.
    #[arg(long, value_name = "FILE", value_parser = place::path())]
    html: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Where the files of BEFORE's tower are, if not where the snapshot says.
    #[arg(long, value_name = "PATH", value_parser = place::text())]
    model_before: Option<String>,
    /// Where the files of AFTER's tower are, if not where the snapshot says.
    #[arg(long, value_name = "PATH", value_parser = place::text())]
    model_after: Option<String>,
    /// Accept only snapshots signed with this Ed25519 key (PEM file). Repeatable; a pipeline's own
    /// keys are accepted too.
    #[arg(long = "public-key", value_name = "FILE", value_parser = place::path())]
    public_keys: Vec<PathBuf>,
}

/// As [`NAME_MODEL`], for two towers.
const NAME_MODELS: &str = "name the tower's files with --model-before or --model-after where they are elsewhere (those of \
    a commit are in the hub's cache)";

/// A snapshot with the tower that its queries are encoded by.
struct Side {
    snapshot: Snapshot,
    encoder: Arc<QueryEncoder>,
}

pub(super) async fn compare(args: CompareArgs, app: &App) -> Result<()> {
    let queries = read_queries(&args.queries)?;
    let opened = root::open_trusting(&args.root, &args.public_keys)?;
    let cache = root::cache_dir()?;
    let mut sides: Vec<Side> = Vec::with_capacity(2);
    for (number, model) in [(args.before, args.model_before), (args.after, args.model_after)] {
        let snapshot = Snapshot::open(&opened.root, Some(number), &cache).await?;
        let manifest = snapshot.manifest();
        if let Some(by) = &args.by
            && !manifest.content.stored_columns.contains(by)
        {
            return Err(Error::usage(format!(
                "--by {by} is not a stored column of snapshot {number}; it has {}",
                manifest.content.stored_columns.join(", ")
            )));
        }
        let loaded = sides.first().map(|side| &side.encoder);
        let encoder = match loaded.filter(|encoder| model.is_none() && encoder.serves(manifest)) {
            Some(encoder) => Arc::clone(encoder),
            None => {
                let (model, base_dir) = opened.tower_files(model)?;
                let device = DeviceSpec::Cpu { threads: 0 };
                let load = QueryEncoder::load(
                    &opened.root,
                    manifest,
                    model.as_deref(),
                    &base_dir,
                    &device,
                    &app.reporter,
                );
                Arc::new(load.await.map_err(|error| match error.hint() {
                    Some(NAME_MODEL) => error.with_hint(NAME_MODELS),
                    _ => error,
                })?)
            }
        };
        sides.push(Side { snapshot, encoder });
    }
    let [before, after] = <[Side; 2]>::try_from(sides).map_err(|_| Error::internal("two sides"))?;
    let towers = [&before, &after].map(|side| side.encoder.tower().fingerprint.to_hex());
    let numbers = [args.before, args.after];
    let spaces = [&before, &after].map(|side| &side.snapshot.manifest().content.space_id);
    let one_tower = Arc::ptr_eq(&before.encoder, &after.encoder);
    let not_crosswise = Comparison::not_crosswise(spaces, one_tower);
    let crosses = not_crosswise.is_none();
    let (k, exact, texts) = (args.k as usize, args.exact, args.texts);
    let (reporter, cancel) = (app.reporter.clone(), app.cancel.clone());
    let asking = tokio::task::spawn_blocking(move || {
        let stage = Stage::Evaluate;
        let running = Running::begin(&*reporter, stage, (queries.len() as u64, "queries"), 0);
        let mut asked = Vec::with_capacity(queries.len());
        for query in queries {
            cancel.check()?;
            let found = ask(query, [&before, &after], k, exact, crosses)?;
            asked.push(Asked { text: found.text.filter(|_| texts), ..found });
            let done = asked.len() as u64;
            reporter.event(Event::Progress { stage, done, tokens: 0 });
        }
        running.end(format::counted(asked.len() as u64, "query"));
        Ok::<_, Error>(asked)
    });
    let asked = asking.await.or_error(ErrorKind::Internal, || "asking the queries")??;
    let mut found = Comparison::of(numbers, towers, k, args.by.as_deref(), &asked);
    found.not_crosswise = not_crosswise;
    if let Some(path) = &args.html {
        std::fs::write(path, found.to_html()?).map_err(|cause| not_written(path, cause))?;
    }
    app.answer(args.json, &found, describe)
}

fn ask(query: Query, sides: [&Side; 2], k: usize, exact: bool, crosses: bool) -> Result<Asked> {
    let [before, after] = sides;
    let asking = || format!("query {}", query.id);
    let first = before.encoder.encode(&query.text).context(asking)?;
    let second = match Arc::ptr_eq(&before.encoder, &after.encoder) {
        true => first.clone(),
        false => after.encoder.encode(&query.text).context(asking)?,
    };
    let hits = |side: &Side, vector: &[f32]| {
        Ok::<_, Error>(Hit::ranked(side.snapshot.search_vector(vector, k, exact)?))
    };
    let crossed = match crosses {
        true => Some([hits(after, &first)?, hits(before, &second)?]),
        false => None,
    };
    let hits = [hits(before, &first)?, hits(after, &second)?];
    Ok(Asked { id: query.id, text: Some(query.text), hits, crossed })
}

fn describe(found: &Comparison) -> String {
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let changes = |changes: &Changes| {
        vec![
            format::count(changes.queries),
            percent(changes.overlap),
            percent(changes.first_changed),
            percent(changes.same),
            format!("{:.2}", changes.rank_shift),
        ]
    };
    let [before, after] = found.snapshots;
    let columns = ["queries", "overlap", "other first", "all the same", "moved by"];
    let mut out = format!(
        "snapshots {before} and {after}, the first {} hits\n{}",
        found.k,
        format::table(&columns, &[true; 5], &[changes(&found.all)])
    );
    match (&found.crosswise, &found.not_crosswise) {
        (Some(crosswise), _) => {
            let row = |(name, of): (&str, &Changes)| {
                let values = changes(of).split_off(1);
                std::iter::once(name.to_owned()).chain(values).collect::<Vec<_>>()
            };
            let rows = crosswise.named().map(row);
            let columns = ["what changes", "overlap", "other first", "all the same", "moved by"];
            let right = [false, true, true, true, true];
            out += &format!("\n{}", format::table(&columns, &right, &rows));
        }
        (None, why) => out += &format!("\n{}\n", why.as_deref().unwrap_or_default()),
    }
    let row = |(number, scores): (&u64, &crate::report::Scores)| {
        let values = [scores.first, scores.last, scores.p10, scores.p50, scores.p90];
        let values = values.iter().map(|value| format!("{value:.3}"));
        std::iter::once(number.to_string()).chain(values).collect::<Vec<_>>()
    };
    let rows: Vec<_> = found.snapshots.iter().zip(&found.scores).map(row).collect();
    let columns = ["scores of", "first", "last", "p10", "p50", "p90"];
    out += &format!("\n{}", format::table(&columns, &[true; 6], &rows));
    if let Some(by) = &found.by {
        let row = |group: &crate::report::Group| {
            std::iter::once(shown(&group.value)).chain(changes(&group.changes)).collect::<Vec<_>>()
        };
        let rows: Vec<_> = found.groups.iter().map(row).collect();
        let columns = [&by[..], "queries", "overlap", "other first", "all the same", "moved by"];
        out += &format!(
            "\n{}",
            format::table(&columns, &[false, true, true, true, true, true], &rows)
        );
    }
    if !found.worst.is_empty() {
        let row = |worst: &crate::report::Worst| {
            let [before, after] = &worst.first;
            let first = |id: &Option<serde_json::Value>| id.as_ref().map(shown).unwrap_or_default();
            let text = worst.text.clone().unwrap_or_default();
            vec![worst.query.clone(), percent(worst.overlap), first(before), first(after), text]
        };
        let rows: Vec<_> = found.worst.iter().map(row).collect();
        let columns = ["changes most", "overlap", "first before", "first after", ""];
        out += &format!("\n{}", format::table(&columns, &[false, true], &rows));
    }
    out
}

fn shown(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
