//! `scalingnote evaluate`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::App;
use super::args::SetArgs;
use super::recipe;
use crate::dataset::RetrievalSet;
use crate::error::{Error, ErrorKind, Result, ResultExt, kind_of_io};
use crate::evaluate::{
    BootstrapOptions, Comparison, EvaluateOptions, Evaluation, TowerPair, compare, evaluate_bm25,
    evaluate_towers, markdown_table,
};
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::train::{QuerySide, TrainOptions};

/// Judge a tower on a retrieval set
///
/// Encodes the documents and the judged queries of a set, searches exactly, and prints nDCG@10,
/// MRR@10 and recall beside those of BM25, with a paired bootstrap interval of the difference.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote evaluate pipelines/quickstart.toml sets/scifact
  scalingnote evaluate recipe.toml sets/scifact --adapter t    what `train --out t` has written
  scalingnote evaluate raw.toml sets/scifact --json > raw.json
  scalingnote evaluate trained.toml sets/scifact --compare raw.json --per-query queries.tsv

TOWER is a pipeline file, a training recipe, or a file with [tower] and, where queries are read
otherwise, [query] (prompt_prefix, prompt_suffix, max_tokens):
  [tower]
  model = \"SmolLM2-135M-Instruct.Q4_1.gguf\"
  pooling = \"last-token\"

SET is a folder in BEIR layout: corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and
qrels.tsv (query, document, grade), each plain, .gz or .xz. Ties and measures are trec_eval's.")]
pub(crate) struct EvaluateArgs {
    /// Names the tower: a pipeline, a training recipe, or a tower file (TOML).
    #[arg(value_name = "TOWER")]
    tower: PathBuf,
    /// The retrieval set: a folder in BEIR layout.
    #[arg(value_name = "SET")]
    set: PathBuf,
    /// Use this LoRA adapter instead of the file's: a PEFT folder, or what `train --out` wrote.
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Compare with an earlier `evaluate --json` on the same set.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Write every query's measures into this file (tab-separated).
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,
    /// Where to compute: cpu, cpu:<threads>, or cuda:<number> (built with feature cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = super::device::parse)]
    device: DeviceSpec,
    /// Print JSON, every query included.
    #[arg(long)]
    json: bool,
}

/// The towers that a file names.
struct Named {
    query: TowerOptions,
    document: TowerOptions,
    base_dir: PathBuf,
}

/// A file that names a tower and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TowerFile {
    tower: TowerOptions,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<QuerySide>,
}

/// What `--json` prints and `--compare` reads.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// The tower, then BM25.
    rows: Vec<Evaluation>,
    documents_per_second: f64,
    /// Median of one query encoded alone.
    query_milliseconds: f64,
    comparisons: Vec<Versus>,
}

/// How much better the second system is than the first.
#[derive(Serialize, Deserialize)]
struct Versus {
    first: String,
    second: String,
    measures: Vec<Comparison>,
}

pub(super) async fn execute(args: EvaluateArgs, app: &App) -> Result<ExitCode> {
    let named = named(&args)?;
    let other = args.compare.as_deref().map(earlier).transpose()?;
    let options = EvaluateOptions::new(stem(&args.set, Path::file_name), &args.set);
    if !args.set.is_dir() {
        return Err(Error::not_found(format!(
            "there is no folder {}; name one with corpus.jsonl, queries.jsonl and qrels.tsv",
            args.set.display()
        )));
    }
    let mut set = RetrievalSet::open(&options.set).context(|| args.set.display().to_string())?;
    if !set.qrels.values().any(|judged| judged.values().any(|grade| *grade > 0)) {
        return Err(Error::input(format!(
            "{} judges no document as relevant: nothing can be measured",
            args.set.display()
        )));
    }
    let resolve = async |tower: &TowerOptions| {
        recipe::naming(&args.tower, Tower::resolve(tower, &named.base_dir, &app.reporter).await)
    };
    let document = resolve(&named.document).await?;
    let query = match named.query == named.document {
        true => document.clone(),
        false => resolve(&named.query).await?,
    };
    if query.dimensions() != document.dimensions() {
        return Err(Error::config(format!(
            "{}: the query tower has {} dimensions and the document tower {}",
            args.tower.display(),
            query.dimensions(),
            document.dimensions()
        )));
    }
    let system = stem(&args.tower, Path::file_stem);
    let towers = TowerPair { query: &query, document: &document, device: args.device.clone() };
    let (run, bm25) = tokio::task::block_in_place(|| {
        let run =
            evaluate_towers(&mut set, &system, &towers, &options, &app.reporter, &app.cancel)?;
        Ok::<_, Error>((run, evaluate_bm25(&set, &options)))
    })?;
    let tower = run.evaluation;
    let mut comparisons = vec![versus(&bm25, &tower)?];
    if let Some(other) = &other {
        comparisons.push(versus(other, &tower)?);
    }
    let answer = Answer {
        rows: vec![tower, bm25],
        documents_per_second: run.documents_per_second,
        query_milliseconds: 1e3 * run.query_seconds,
        comparisons,
    };
    if let Some(file) = &args.per_query {
        std::fs::write(file, per_query(&answer.rows)).map_err(|cause| {
            Error::new(kind_of_io(&cause), format!("{} cannot be written", file.display()))
                .with_source(cause)
        })?;
    }
    app.console.close();
    app.console.print(&if args.json {
        super::pretty(&answer)?
    } else {
        table(&answer, other.as_ref())
    });
    Ok(ExitCode::SUCCESS)
}

fn named(args: &EvaluateArgs) -> Result<Named> {
    let (text, base_dir) = recipe::read(&args.tower)?;
    // What the file is, its sections say; what is wrong with it, the reader of that kind of file.
    let keys = toml::from_str::<toml::Table>(&text).unwrap_or_default();
    let mut named = if keys.contains_key("corpus") || keys.contains_key("publish") {
        let pipeline = super::args::resolve(&args.tower, &SetArgs::default())?.pipeline;
        Named { query: pipeline.query_tower(), document: pipeline.tower, base_dir }
    } else if keys.contains_key("pairs") || keys.contains_key("method") {
        let recipe: TrainOptions = recipe::parse(&text, &args.tower)?;
        Named { query: recipe.query_tower(), document: recipe.tower, base_dir }
    } else {
        let file: TowerFile = recipe::parse(&text, &args.tower)?;
        let query = match &file.query {
            None => file.tower.clone(),
            Some(side) => TowerOptions {
                prompt_prefix: side.prompt_prefix.clone(),
                prompt_suffix: side.prompt_suffix.clone(),
                max_tokens: side.max_tokens,
                ..file.tower.clone()
            },
        };
        Named { query, document: file.tower, base_dir }
    };
    if let Some(path) = &args.adapter {
        named.query.adapter = Some(adapter(path, "query-adapter")?);
        named.document.adapter = Some(adapter(path, "document-adapter")?);
    }
    Ok(named)
}

/// The adapter of one side: in its own folder, in the run's `adapter`, or the path itself.
fn adapter(path: &Path, side: &str) -> Result<String> {
    let inside = [side, "adapter"].map(|name| path.join(name));
    let found = inside.iter().find(|folder| folder.is_dir()).map_or(path, PathBuf::as_path);
    let absolute = std::path::absolute(found)
        .or_error(ErrorKind::Usage, || format!("--adapter {} is no path", path.display()))?;
    absolute.into_os_string().into_string().map_err(|_| {
        Error::new(ErrorKind::Usage, format!("--adapter {} is not Unicode", path.display()))
    })
}

/// The tower's row of an earlier evaluation.
fn earlier(file: &Path) -> Result<Evaluation> {
    let wrong = || format!("{} is not what `scalingnote evaluate --json` prints", file.display());
    let text = std::fs::read(file).map_err(|cause| {
        Error::new(ErrorKind::Usage, format!("{} cannot be read", file.display()))
            .with_source(cause)
    })?;
    let answer: Answer = serde_json::from_slice(&text).or_error(ErrorKind::Input, wrong)?;
    let mut row = answer.rows.into_iter().next().ok_or_else(|| Error::input(wrong()))?;
    row.system = format!("{} ({})", row.system, stem(file, Path::file_name));
    Ok(row)
}

fn versus(first: &Evaluation, second: &Evaluation) -> Result<Versus> {
    let measures = compare(first, second, &BootstrapOptions::default())?;
    Ok(Versus { first: first.system.clone(), second: second.system.clone(), measures })
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

fn table(answer: &Answer, other: Option<&Evaluation>) -> String {
    let rows: Vec<&Evaluation> = answer.rows.iter().chain(other).collect();
    let mut text = markdown_table(&rows);
    let _ = writeln!(
        text,
        "\n{:.1} documents/s; {:.1} ms a query",
        answer.documents_per_second, answer.query_milliseconds
    );
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
