//! `scalingnote evaluate`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::pair_file;
use super::recipe;
use crate::cli::app::App;
use crate::cli::args::{device, place};
use crate::error::{Error, ErrorKind, Result, ResultExt, not_written};
use crate::evaluate::{EntropyOptions, EvaluateOptions, Evaluation, markdown_table, trec_run};
use crate::exec::learn::{self, EvaluateRequest, Judged};
use crate::observe::format;
use crate::store::named::{Existing, read_whole, write_whole};
use crate::tower::DeviceSpec;

/// Evaluate towers on a retrieval set
///
/// Encodes the documents and the judged queries of a set, searches exactly, and prints nDCG@10,
/// MRR@10, recall and contrastive entropy next to BM25's, with a paired bootstrap interval of the
/// difference. Vectors kept in --vectors are reused wherever the tower is the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote evaluate pipelines/quickstart.toml sets/scifact
  scalingnote evaluate recipe.toml sets/scifact --adapter t    what `train --out t` wrote
  scalingnote evaluate raw.toml sets/scifact --json > raw.json
  scalingnote evaluate trained.toml sets/scifact --compare raw.json --per-query queries.tsv
  scalingnote evaluate student.toml sets/scifact --vectors v --index --latency

TOWER is a pipeline file, a training recipe, or a file with [tower] and, if queries are encoded
differently, [query] (prompt_prefix, prompt_suffix, max_tokens) or [query.tower]:
  [tower]
  model = \"SmolLM2-135M-Instruct.Q4_1.gguf\"
  pooling = \"last-token\"

SET is a folder in BEIR layout: corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and
qrels.tsv (query, document and grade separated by tabs, with or without a header; or TREC's four
columns), each plain, .gz or .xz. Grades are whole numbers, above 0 for relevant documents. Ties and
measures follow trec_eval: a relevant document that is not in the corpus counts as not found, and a
query without relevant documents counts as 0. Judgements of queries that are missing or have no text
are left out, and duplicates count once. How many there are is reported; --strict refuses them. One
id with two texts or two grades is an error.")]
pub(crate) struct EvaluateArgs {
    /// File that names the towers: a pipeline, a training recipe, or a tower file (TOML).
    #[arg(value_name = "TOWER", value_parser = place::path())]
    tower: PathBuf,
    /// The retrieval set: a folder in BEIR layout.
    #[arg(value_name = "SET", value_parser = place::path())]
    set: PathBuf,
    /// Use what was trained instead of the file's own: a LoRA adapter's folder, or what `train
    /// --out` wrote.
    #[arg(long, value_name = "PATH", value_parser = place::path())]
    adapter: Option<PathBuf>,
    /// Name of the system in tables. Defaults to the name of the file.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// File in SET with the queries.
    #[arg(long, value_name = "FILE", default_value = "queries.jsonl")]
    queries: String,
    /// File in SET with the judgements.
    #[arg(long, value_name = "FILE", default_value = "qrels.tsv")]
    qrels: String,
    /// Leave the document with the query's own id out of its ranking, as BEIR does (ArguAna,
    /// Quora).
    #[arg(long)]
    ignore_identical_ids: bool,
    /// Refuse a set with judgements of missing documents or queries, or with repeated lines.
    #[arg(long)]
    strict: bool,
    /// Keep vectors as Parquet in this folder, by embedding space, and reuse those already there.
    #[arg(long, value_name = "DIR", value_parser = place::path())]
    vectors: Option<PathBuf>,
    /// Also evaluate what ScalingNote's own index finds.
    #[arg(long)]
    index: bool,
    /// Also time single queries on one thread: the query tower and, if it is a different one, the
    /// document tower.
    #[arg(long)]
    latency: bool,
    /// Temperature of the contrastive entropy; to fit a scaling law, use the temperature of the
    /// training.
    #[arg(long, value_name = "T", default_value_t = EntropyOptions::default().temperature, value_parser = positive)]
    entropy_temperature: f64,
    /// Compare with an earlier `evaluate --json` on the same set; repeatable.
    #[arg(long, value_name = "FILE", value_parser = place::path())]
    compare: Vec<PathBuf>,
    /// Write every query's measures to this file (tab-separated).
    #[arg(long, value_name = "FILE", value_parser = place::path())]
    per_query: Option<PathBuf>,
    /// Write the ranked lists to this file (TREC run format).
    #[arg(long, value_name = "FILE", value_parser = place::path())]
    run: Option<PathBuf>,
    /// Device to compute on: cpu, cpu:<threads>, or cuda:<number> (if built with feature cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    device: DeviceSpec,
    /// Print JSON, including every query.
    #[arg(long)]
    json: bool,
}

/// Largest answer of an earlier evaluation that is read: it has every query of a set.
const MAX_ANSWER: u64 = 256 << 20;

fn positive(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "it must be a number above 0".to_owned())
}

pub(crate) async fn execute(args: EvaluateArgs, app: &App) -> Result<()> {
    let named = pair_file::read(&args.tower, args.adapter.as_deref())?;
    let earlier = args.compare.iter().map(|file| earlier(file)).collect::<Result<Vec<_>>>()?;
    // What is wrong with the other files is said before hours of encoding, not after.
    for file in args.per_query.iter().chain(&args.run) {
        check_place(file)?;
    }
    let mut options = EvaluateOptions::new(stem(&args.set, Path::file_name), &args.set);
    options.entropy.temperature = args.entropy_temperature;
    options.set.queries = args.queries;
    options.set.qrels = args.qrels;
    options.set.ignore_identical_ids = args.ignore_identical_ids;
    let system = args.name.unwrap_or_else(|| stem(&args.tower, Path::file_stem));
    let request = EvaluateRequest {
        options,
        strict: args.strict,
        system: system.clone(),
        query: named.query,
        document: named.document,
        index: args.index.then_some(named.index),
        latency: args.latency,
        earlier: earlier.clone(),
    };
    let temporary = match args.vectors {
        Some(_) => None,
        None => Some(tempfile::tempdir().or_error(
            ErrorKind::Resource,
            || "making a folder for the vectors (set TMPDIR, or name one with --vectors)",
        )?),
    };
    let folder = temporary.as_ref().map(|folder| folder.path().to_owned()).or(args.vectors);
    let context = app.learning(named.base_dir, folder.unwrap_or_default(), vec![args.device]);
    let judged = recipe::naming(&args.tower, learn::evaluate(request, &context).await)?;
    if let Some(file) = &args.run {
        let text = trec_run(&judged.run, &system);
        write_whole(file, text, Existing::Replace).map_err(|cause| not_written(file, cause))?;
    }
    if let Some(file) = &args.per_query {
        let text = per_query(&judged.rows);
        write_whole(file, text, Existing::Replace).map_err(|cause| not_written(file, cause))?;
    }
    app.answer(args.json, &judged, |judged| table(judged, &earlier)).context(
        || "the set is judged and the named files are written, but the answer could not be printed",
    )
}

/// Refuses a file that cannot be written because of where it is to lie.
fn check_place(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if file.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(Error::usage(format!(
            "{} cannot be written: name a file in a folder that is there",
            file.display()
        )));
    }
    Ok(())
}

/// The tower's row of an earlier evaluation.
fn earlier(file: &Path) -> Result<Evaluation> {
    let wrong = || format!("{} is not what `scalingnote evaluate --json` prints", file.display());
    let text = read_whole(file, MAX_ANSWER).map_err(|cause| {
        Error::usage(format!("{} cannot be read", file.display())).with_source(cause)
    })?;
    let answer: Judged = serde_json::from_slice(&text).or_error(ErrorKind::Input, wrong)?;
    let mut row = answer.rows.into_iter().next().ok_or_else(|| Error::input(wrong()))?;
    row.system = format!("{} ({})", row.system, stem(file, Path::file_name));
    Ok(row)
}

/// A name for tables.
fn stem(path: &Path, part: fn(&Path) -> Option<&std::ffi::OsStr>) -> String {
    part(path)
        .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn per_query(rows: &[Evaluation]) -> String {
    let mut text = "query\tsystem".to_owned();
    for (name, _) in rows[0].mean.named() {
        let _ = write!(text, "\t{name}");
    }
    text.push('\n');
    for row in rows {
        for query in &row.per_query {
            let _ = write!(text, "{}\t{}", query.query, row.system);
            for (_, value) in query.measures.named() {
                let _ = write!(text, "\t{value}");
            }
            text.push('\n');
        }
    }
    text
}

fn table(answer: &Judged, others: &[Evaluation]) -> String {
    let rows: Vec<&Evaluation> = answer.rows.iter().chain(others).collect();
    let mut text = markdown_table(&rows);
    for line in answer.oddities.lines() {
        let _ = writeln!(text, "\n{line}");
    }
    if let Some(row) = answer.rows.first().filter(|row| row.without_relevant > 0) {
        let count = row.without_relevant;
        let _ = writeln!(text, "\nqueries without a relevant document: {count}; they count as 0");
    }
    if let Some(recall) = answer.index_recall_10 {
        let _ = writeln!(text, "\nthe index finds {:.2}% of the exact 10 nearest", 100.0 * recall);
    }
    for row in &answer.latency {
        let _ = writeln!(
            text,
            "\n{}: {:.2} ms a query (median), {:.2} ms (95th percentile); {} of {:.1} tokens, one thread",
            row.tower,
            row.median_ms,
            row.p95_ms,
            format::counted(row.queries as u64, "query"),
            row.mean_tokens
        );
    }
    for versus in &answer.comparisons {
        let _ = writeln!(text, "\n{} against {} (95% interval):", versus.second, versus.first);
        for row in &versus.measures {
            let _ = writeln!(
                text,
                "  {:<12} {:+.4}  [{:+.4}, {:+.4}]{}",
                row.measure,
                row.difference,
                row.low,
                row.high,
                if row.significant { "" } else { "  may be chance" }
            );
        }
    }
    text
}
