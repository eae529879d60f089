//! Flags and subcommands. The help texts are the manual.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Turns notes into a published, searchable snapshot, offline and in batch.
///
/// A pipeline file says where notes come from, which LLM encodes them, how indexes are built and
/// what a snapshot must satisfy. `run` does all of it, skips what is done already, and publishes
/// one new snapshot or none.
#[derive(Debug, Parser)]
#[command(
    name = "scalingnote",
    version,
    styles = STYLES,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Start here:
  scalingnote config check pipelines/quickstart.toml   is the file right?
  scalingnote plan pipelines/quickstart.toml           what would a run do, and cost?
  scalingnote run pipelines/quickstart.toml            do it, publish a snapshot
  scalingnote search pipelines/quickstart.toml \"sql injection\"

Exit codes: 0 done, or nothing to do; 1 failed; 2 wrong flag or configuration; 3 a gate refused
the snapshot; 75 run again (deadline, passing fault, another publisher); 130 interrupted.

Credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*, HF_TOKEN), never from a file."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every subcommand.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Global {
    /// How progress is shown on stderr.
    #[arg(long, global = true, value_enum, default_value_t = ProgressMode::Auto, env = "SCALINGNOTE_PROGRESS")]
    pub progress: ProgressMode,
    /// How log lines and errors are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "SCALINGNOTE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Log more: -v what happens, -vv details, -vvv everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Only warnings, errors and results.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// When to use colour; NO_COLOR is honoured.
    #[arg(long, global = true, value_enum, default_value_t = super::console::Color::Auto)]
    pub color: super::console::Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars on a terminal, lines otherwise (JSON with `--log-format json`).
    Auto,
    /// Bars with tokens/s and time left.
    Bars,
    /// A plain line now and then.
    Lines,
    /// One JSON object a line.
    Json,
    /// Warnings only.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(super::run::RunArgs),
    Plan(super::plan::PlanArgs),
    Task(super::task::TaskArgs),
    Publish(super::publish::PublishArgs),
    Purge(super::purge::PurgeArgs),
    Search(super::search::SearchArgs),
    Serve(super::serve::ServeArgs),
    Snapshot(super::snapshot::SnapshotArgs),
    Train(super::train::TrainArgs),
    Mine(super::mine::MineArgs),
    Distill(super::distill::DistillArgs),
    Cluster(super::cluster::ClusterArgs),
    Evaluate(super::evaluate::EvaluateArgs),
    Config(super::config::ConfigArgs),
    Schema(super::schema::SchemaArgs),
    Completions(super::completions::CompletionsArgs),
}

/// The pipeline file and what is changed in it.
#[derive(Debug, Clone, Args)]
pub(crate) struct PipelineArgs {
    /// The pipeline file (TOML). Relative paths in it start at its own directory.
    #[arg(value_name = "PIPELINE", env = "SCALINGNOTE_PIPELINE")]
    pub pipeline: PathBuf,
    #[command(flatten)]
    pub set: SetArgs,
}

/// Overrides of single values.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SetArgs {
    /// Override one value; repeatable; the last one wins. VALUE is TOML, a plain string needs no
    /// quotes. Stronger than SCALINGNOTE__SECTION__KEY in the environment, which is stronger than
    /// the file.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

impl PipelineArgs {
    /// The checked pipeline.
    pub fn resolve(&self) -> crate::error::Result<crate::config::Resolved> {
        resolve(&self.pipeline, &self.set)
    }
}

/// Reads a pipeline file with this process's environment.
pub(crate) fn resolve(
    file: &std::path::Path,
    set: &SetArgs,
) -> crate::error::Result<crate::config::Resolved> {
    // A variable that is not Unicode cannot be one of ours; `std::env::vars` would panic on it.
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    crate::config::resolve(file, env, &set.set)
}
