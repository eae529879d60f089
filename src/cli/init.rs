//! `scalingnote init`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::app::App;
use super::args::{environment, place, pooling};
use crate::config::{self, Choices, Place, Proposal, Resolved};
use crate::corpus::{
    self, ColumnShape, CorpusInput, CorpusOptions, Look, LookRequest, TableFormat, TableOptions,
    TableSample,
};
use crate::error::{Error, ErrorKind, Result, ResultExt, not_written};
use crate::exec::{self, RunContext};
use crate::observe::{WarnsOnce, format};
use crate::store::StorageOptions;
use crate::store::named::{Existing, write_whole};
use crate::tower::{Tower, TowerOptions};
use crate::types::Pooling;

/// Rows of which one is shown as text: the first may have none.
const FIRST_ROWS: usize = 20;
/// Characters of the text that is shown.
const SHOWN: usize = 1_200;
const FOUND: &str = "markdown, as the names of the files say";
const FORMAT: &str = "`scalingnote init --format` says what the files are";
/// A model that is small, good, and under a free licence.
const MODEL: &str = "Qwen/Qwen3-Embedding-0.6B";

/// Inspect note files and write a pipeline file for them
///
/// Proposes the id column, the text columns, the SQL, the template and the stored columns, writes a
/// commented pipeline file that passes `config check`, and shows the first text that would be
/// encoded. If the model is on this machine, it also makes the plan. On a terminal it asks
/// questions; each question has a flag, and --yes asks none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote init notes.csv
  scalingnote init s3://bucket/export/ --model Qwen/Qwen3-Embedding-0.6B --root s3://bucket/index
  scalingnote init export.jsonl --yes --id url --title headline --text lead --text story --output news.toml
  scalingnote init notes.parquet --yes --output - | less

SOURCE can be anything that `uri` in [[corpus.tables]] can be: a file, a folder, a glob or an
object-store URI of Parquet, JSON, CSV, Arrow, Avro or Markdown files. CSV and JSON may be
compressed with gzip or zstd. An existing file is never overwritten.")]
pub(crate) struct InitArgs {
    /// Where the notes are stored.
    #[arg(value_parser = place::text())]
    source: String,
    /// Model to use as the tower: a Hugging Face repository, a folder, or a .safetensors or .gguf
    /// file.
    #[arg(long, value_parser = place::text())]
    model: Option<String>,
    /// How to pool token states into one vector, if the model's files do not say.
    #[arg(long, value_parser = pooling::parse)]
    pooling: Option<Pooling>,
    /// Pipeline file to write; `-` is stdout. Defaults to SOURCE's name with .toml, in the current
    /// folder.
    #[arg(long, value_name = "FILE", value_parser = place::path())]
    output: Option<PathBuf>,
    /// Where to store everything: a folder, or an s3://, gs:// or az:// URI. Defaults to a folder
    /// next to the pipeline file.
    #[arg(long, value_parser = place::text())]
    root: Option<String>,
    /// Column that identifies a note.
    #[arg(long, value_name = "COLUMN")]
    id: Option<String>,
    /// Column with the title.
    #[arg(long, value_name = "COLUMN")]
    title: Option<String>,
    /// Column with text to encode. Repeatable; the columns follow each other in the order given.
    #[arg(long = "text", value_name = "COLUMN")]
    texts: Vec<String>,
    /// Column with topics: a list of strings, or one string.
    #[arg(long, value_name = "COLUMN")]
    topics: Option<String>,
    /// Column that says when a note was last changed; of two rows with the same id, the newer one
    /// wins.
    #[arg(long, value_name = "COLUMN")]
    updated_at: Option<String>,
    /// Column to show with search hits; repeatable.
    #[arg(long, value_name = "COLUMN")]
    stored: Vec<String>,
    /// Format of the files, if their extensions do not say: parquet, jsonl, csv, arrow, avro or
    /// markdown.
    #[arg(long, value_parser = table_format)]
    format: Option<TableFormat>,
    /// Accept every proposal without asking.
    #[arg(long, short)]
    yes: bool,
    /// Do not make a plan, even if the model is on this machine.
    #[arg(long)]
    no_plan: bool,
}

fn table_format(text: &str) -> Result<TableFormat, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "is not one of parquet, jsonl, csv, arrow, avro, markdown".to_owned())
}

pub(super) async fn execute(args: InitArgs, app: &App) -> Result<()> {
    // The files are looked at, read and planned with.
    let reporter = Arc::new(WarnsOnce::new(app.reporter.clone()));
    let app = &App { console: app.console.clone(), reporter, cancel: app.cancel.clone() };
    let output =
        args.output.clone().unwrap_or_else(|| format!("{}.toml", stem(&args.source)).into());
    let to_stdout = output.as_os_str() == "-";
    // Before the files are read, which may take its time.
    if !to_stdout && output.symlink_metadata().is_ok() {
        return Err(Error::usage(format!(
            "{} is there already and is never overwritten; name another file with --output",
            output.display()
        )));
    }
    let base_dir = folder_of(&output)?;
    let mut table = TableOptions::new("notes", &seen_from(&base_dir, &args.source)?);
    table.format = args.format;
    let (sample, is_markdown) = sampled(&mut table, &base_dir, app).await?;
    let mut questions = Questions::of(&args);
    let choices = questions.columns(&sample, &args)?;
    let proposal = config::propose(&sample, &choices)?;
    let mut model = questions.ask("model", args.model.clone(), MODEL)?;
    // Else it names a repository.
    if Path::new(&model).exists() {
        model = seen_from(&base_dir, &model)?;
    }
    let default_root = format!("{}-index", stem(&args.source));
    let root = match questions.ask("root (folder or bucket)", args.root.clone(), &default_root)? {
        root if root == default_root => root,
        root => seen_from(&base_dir, &root)?,
    };
    // A fake tower has no files that say it.
    let fake = || model.starts_with("fake:").then_some(Pooling::Mean);
    let (made_by, pooling) = (args.source.clone(), args.pooling.or_else(fake));
    let text =
        config::pipeline_file(&sample, &proposal, &Place { table, model, pooling, root, made_by });
    let name =
        if to_stdout { "the proposed pipeline".into() } else { output.display().to_string() };
    let resolved = config::resolve_text(&text, &name, &base_dir, environment(), &[])?;
    let look = first_text(&resolved, app).await?;
    let mut open = Open::default();
    if look.unreadable.total() > 0 {
        open.rejected(&look, &name);
    }
    open.tower(&resolved, &name).await;
    if to_stdout {
        open.said.iter().chain(&open.next).for_each(|said| app.reporter.warn(said.clone()));
        return app.print(&text);
    }
    write_whole(&output, &text, Existing::Keep).map_err(|cause| not_written(&output, cause))?;
    let mut said = match open.said.is_empty() {
        true => format!(
            "{name} is written, and `scalingnote config check` finds nothing wrong with it\n"
        ),
        false => format!("{name} is written; what is still open is said below\n"),
    };
    said += &summary(&sample, is_markdown, &proposal, &resolved);
    said += &shown(&look);
    for what in &open.said {
        said += &format!("\n{}\n", format::printable(what));
    }
    if !args.no_plan && open.said.is_empty() {
        said += &plan(&resolved, app).await;
    }
    said += "\nnext:\n";
    for line in &open.next {
        said += &format!("  {line}\n");
    }
    said += &format!("  scalingnote run {name}\n");
    app.print(&said).context(|| format!("{name} is written, but that could not be said"))
}

/// A first look at the table. Where no ending names a format, and the notes are Markdown, they are taken as that, which
/// is said to be so.
async fn sampled(
    table: &mut TableOptions,
    base_dir: &Path,
    app: &App,
) -> Result<(TableSample, bool)> {
    let storage = StorageOptions::default();
    let look = async |table: &TableOptions| {
        corpus::sample_table(table, base_dir, &storage, &app.reporter, &app.cancel).await
    };
    let error = match look(&*table).await {
        Ok(sample) => return Ok((sample, false)),
        Err(error) if table.format.is_some() => return Err(error),
        Err(error) => error,
    };
    let there = corpus::holds_markdown(table, base_dir, &storage, &app.cancel).await;
    if !there.unwrap_or(false) {
        // There is no file yet in which a format could be set.
        let has_none = error.message().contains("set format");
        return Err(if has_none { error.with_hint(FORMAT) } else { error });
    }
    table.format = Some(TableFormat::Markdown);
    Ok((look(&*table).await?, true))
}

/// What the written file still needs before a run goes through.
#[derive(Default)]
struct Open {
    /// In sentences.
    said: Vec<String>,
    /// What to do about it, line by line.
    next: Vec<String>,
}

impl Open {
    /// Rows that no reader could make sense of.
    fn rejected(&mut self, look: &Look, name: &str) {
        let rejected = &look.unreadable;
        let count = rejected.total();
        let (rows, are) = if count == 1 { ("row", "is") } else { ("rows", "are") };
        self.said.push(format!(
            "{} {rows} cannot be read and {are} rejected, e.g. {}",
            format::count(count),
            rejected.samples.first().map_or("", String::as_str)
        ));
        self.next.push(format!(
            "correct them, or write into [corpus] of {name}: max_rejected = {count}, and where that is more than 1% of all \
             rows, into [gates]: max_rejected_percent"
        ));
    }

    /// A model that is not there, cannot be used, or does not say how token states become one vector.
    async fn tower(&mut self, resolved: &Resolved, name: &str) {
        let (options, base_dir) = (&resolved.pipeline.tower, &resolved.pipeline.base_dir);
        let Err(error) = Tower::check_here(options, base_dir).await else { return };
        let pooled = TowerOptions { pooling: Some(Pooling::Mean), ..options.clone() };
        let lacks_pooling =
            options.pooling.is_none() && Tower::check_here(&pooled, base_dir).await.is_ok();
        self.said.push(format!("[tower]: {error}"));
        self.next.push(match lacks_pooling {
            true => format!(
                "write into [tower] of {name}: pooling = \"mean\" (or as the model's authors say)"
            ),
            false => {
                format!("write into [tower] of {name}: model = \"MODEL\", one that can be used")
            }
        });
    }
}

/// A name for what is made of a source.
fn stem(source: &str) -> String {
    let path = source.split(['?', '#']).next().unwrap_or_default();
    let parts = path.split('/').rev();
    let last = parts.map(|part| part.split('.').next().unwrap_or_default());
    let is_name = |part: &&str| {
        let plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        !part.is_empty() && part.chars().all(plain)
    };
    last.into_iter().find(is_name).unwrap_or("notes").to_owned()
}

fn folder_of(output: &Path) -> Result<PathBuf> {
    let here = || std::env::current_dir().or_error(ErrorKind::Input, || "finding this folder");
    match output.parent() {
        Some(folder) if output.as_os_str() != "-" && !folder.as_os_str().is_empty() => {
            std::path::absolute(folder).or_error(ErrorKind::Input, || "finding the output's folder")
        }
        _ => here(),
    }
}

/// A path as the pipeline file has to say it: its paths start at its own folder, those of flags where they are given.
fn seen_from(base_dir: &Path, path: &str) -> Result<String> {
    let here = std::env::current_dir().or_error(ErrorKind::Input, || "finding this folder")?;
    if path.contains("://") || Path::new(path).is_absolute() || here == base_dir {
        return Ok(path.to_owned());
    }
    Ok(here.join(path).to_string_lossy().into_owned())
}

/// Asks on a terminal for what no flag says.
struct Questions {
    asks: bool,
}

impl Questions {
    fn of(args: &InitArgs) -> Self {
        let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Self { asks: terminal && !args.yes }
    }

    /// The flag's value, or the answer, or the proposal.
    fn ask(&mut self, what: &str, given: Option<String>, proposed: &str) -> Result<String> {
        if let Some(given) = given {
            return Ok(given);
        }
        if !self.asks {
            return Ok(proposed.to_owned());
        }
        let mut stderr = std::io::stderr().lock();
        let asked = write!(stderr, "{what} [{}]: ", format::printable(proposed))
            .and_then(|()| stderr.flush());
        let mut answer = String::new();
        asked
            .and_then(|()| std::io::stdin().lock().read_line(&mut answer))
            .or_error(ErrorKind::Usage, || "asking; --yes takes what is proposed")?;
        let answer = answer.trim();
        Ok(if answer.is_empty() { proposed.to_owned() } else { answer.to_owned() })
    }

    /// Which columns are what, as far as somebody says it.
    fn columns(&mut self, sample: &TableSample, args: &InitArgs) -> Result<Choices> {
        let given = Choices {
            id: args.id.clone(),
            title: args.title.clone(),
            texts: args.texts.clone(),
            topics: args.topics.clone(),
            updated_at: args.updated_at.clone(),
            stored: args.stored.clone(),
        };
        if !self.asks {
            return Ok(given);
        }
        let names: Vec<String> = sample
            .columns
            .iter()
            .filter(|column| column.shape != ColumnShape::Other)
            .map(|column| format!("{} ({})", format::printable(&column.name), column.type_name))
            .collect();
        let mut stderr = std::io::stderr().lock();
        // Where it cannot be written, the questions cannot either, and say so.
        let _ = writeln!(stderr, "columns: {}", names.join(", "));
        drop(stderr);
        let proposed = config::propose(sample, &given);
        let id = proposed.as_ref().map_or_else(|_| String::new(), |proposal| proposal.id.clone());
        let id = Some(self.ask("id column", given.id.clone(), &id)?).filter(|id| !id.is_empty());
        let given = Choices { id, ..given };
        if !given.texts.is_empty() || given.title.is_some() {
            return Ok(given);
        }
        let Proposal { title, texts, .. } = config::propose(sample, &given).unwrap_or_default();
        let proposed: Vec<String> = title.iter().chain(&texts).cloned().collect();
        let answer = self.ask("text columns, in order", None, &proposed.join(", "))?;
        let answered: Vec<String> = answer
            .split(',')
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        Ok(match answered == proposed {
            true => given,
            false => Choices { texts: answered, ..given },
        })
    }
}

async fn first_text(resolved: &Resolved, app: &App) -> Result<Look> {
    let pipeline = &resolved.pipeline;
    // Rows that are rejected stop a run, and not what is said of them.
    let options = CorpusOptions { max_rejected: u64::MAX, ..pipeline.corpus.clone() };
    let read = pipeline.corpus_input(&app.reporter, &app.cancel);
    let input = CorpusInput { options: &options, ..read };
    let request = LookRequest { input, chunker: None, earlier: None };
    corpus::look(request, corpus::Wanted::Rows(FIRST_ROWS)).await
}

fn summary(
    sample: &TableSample,
    is_markdown: bool,
    proposal: &Proposal,
    resolved: &Resolved,
) -> String {
    let pipeline = &resolved.pipeline;
    let texts: Vec<&str> =
        proposal.title.iter().chain(&proposal.texts).map(String::as_str).collect();
    let files = if sample.files == 1 { "file" } else { "files" };
    let mut rows = vec![
        ("notes", format!("{} {files}, {}", sample.files, format::bytes(sample.bytes))),
        ("format", if is_markdown { FOUND.to_owned() } else { String::new() }),
        ("id", proposal.id.clone()),
        ("text", texts.join(", ")),
        ("topics", proposal.topics.clone().unwrap_or_default()),
        ("updated", proposal.updated_at.clone().unwrap_or_default()),
        ("stored", pipeline.corpus.stored_columns.join(", ")),
        ("model", pipeline.tower.model.clone()),
        ("root", pipeline.publish.root.clone()),
    ];
    rows.retain(|(_, value)| !value.is_empty());
    let line = |(key, value): (&str, String)| format!("  {key:<8} {}\n", format::printable(&value));
    rows.into_iter().map(line).collect()
}

/// The first text, line by line: it comes from a note, so nothing of it may command the terminal.
fn shown(look: &Look) -> String {
    let Some(first) = look.chunks.iter().find(|chunk| !chunk.deleted) else {
        return format!(
            "\nnone of the first {} rows has a text; look at the columns\n",
            look.rows_read
        );
    };
    let cut: String = first.text.chars().take(SHOWN).collect();
    let lines: String =
        cut.lines().map(|line| format!("  {}\n", format::printable(line))).collect();
    let more = if cut.len() < first.text.len() { "  ...\n" } else { "" };
    format!(
        "\nthe first text, of note {}:\n{lines}{more}",
        format::printable(&first.note_id.to_string())
    )
}

/// What a run would do, where the model is here. The file is written: a failure here is only reported.
async fn plan(resolved: &Resolved, app: &App) -> String {
    let pipeline = &resolved.pipeline;
    match Tower::resolve_here(&pipeline.tower, &pipeline.base_dir, &app.reporter).await {
        Ok(Some(_)) => {}
        Ok(None) => {
            return format!(
                "\n{} is not on this machine, so nothing is planned yet; `scalingnote plan` fetches it\n",
                pipeline.tower.model
            );
        }
        Err(error) => return format!("\nnothing is planned yet: {error}\n"),
    }
    let planned = async {
        let context = RunContext {
            pipeline: pipeline.clone(),
            root: pipeline.open_root()?.with_cancel(app.cancel.clone()),
            reporter: app.reporter.clone(),
            cancel: app.cancel.clone(),
        };
        exec::plan(&context).await
    };
    match planned.await {
        Ok(plan) => format!("\n{plan}"),
        Err(error) => format!("\nnothing is planned yet: {error}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gives_a_name() {
        for (source, name) in [
            ("notes.csv", "notes"),
            ("/data/my notes/export.jsonl.gz", "export"),
            ("s3://bucket/daily/", "daily"),
            ("s3://bucket/daily/*.parquet", "daily"),
            ("https://host/a.csv?sig=x", "a"),
            (".", "notes"),
        ] {
            assert_eq!(stem(source), name, "{source}");
        }
    }
}
