//! Every subcommand, and which file carries it out.

use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{CommandFactory, Parser, Subcommand};

use super::app::App;
use super::args::Global;
use super::{
    cluster, completions, config, doctor, explain, init, learn, pipeline, purge, schema, search,
    serve, snapshot, tower,
};
use crate::error::Result;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Turn notes into a published, searchable snapshot, offline and in batch.
///
/// A pipeline file says where the notes come from, which LLM encodes them, how the indexes are
/// built and what a snapshot must satisfy. `run` does all of it, skips work that is already done,
/// and publishes either one new snapshot or none.
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
  scalingnote config check pipelines/quickstart.toml   check the pipeline file
  scalingnote plan pipelines/quickstart.toml           see what a run would do and cost
  scalingnote run pipelines/quickstart.toml            run it and publish a snapshot
  scalingnote search pipelines/quickstart.toml \"sql injection\"

Exit codes: 0 done, or nothing to do; 1 failed; 2 invalid flag or configuration; 3 a gate refused
the snapshot; 75 run again (deadline, transient failure, another publisher); 130 interrupted.

Credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*, HF_TOKEN), never from a file."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::InitArgs),
    Doctor(doctor::DoctorArgs),
    Run(pipeline::run::RunArgs),
    Plan(pipeline::plan::PlanArgs),
    Task(pipeline::task::TaskArgs),
    Publish(pipeline::publish::PublishArgs),
    Purge(purge::PurgeArgs),
    Search(search::SearchArgs),
    Serve(serve::ServeArgs),
    Snapshot(snapshot::SnapshotArgs),
    Tower(tower::TowerArgs),
    Train(learn::train::TrainArgs),
    Mine(learn::mine::MineArgs),
    Whiten(learn::whiten::WhitenArgs),
    Distill(learn::distill::DistillArgs),
    Cluster(cluster::ClusterArgs),
    Evaluate(learn::evaluate::EvaluateArgs),
    Explain(explain::ExplainArgs),
    Config(config::ConfigArgs),
    Schema(schema::SchemaArgs),
    Completions(completions::CompletionsArgs),
}

/// The whole command, for completions and documentation.
pub fn command() -> clap::Command {
    with_examples(Cli::command())
}

/// A subcommand without examples of its own shows those of its parent's that are about it.
fn with_examples(parent: clap::Command) -> clap::Command {
    let help = parent.get_after_help().map(ToString::to_string).unwrap_or_default();
    let name = parent.get_name().to_owned();
    parent.mut_subcommands(|inner| {
        let own = format!(" {name} {} ", inner.get_name());
        let about_it = |line: &&str| line.starts_with("  ") && format!("{line} ").contains(&own);
        let examples: Vec<&str> = help.lines().filter(about_it).collect();
        let inner = match inner.get_after_help() {
            None if !examples.is_empty() => {
                inner.after_help(format!("Examples:\n{}", examples.join("\n")))
            }
            _ => inner,
        };
        with_examples(inner)
    })
}

/// Carries out a subcommand.
pub(super) async fn dispatch(command: Command, app: &App) -> Result<ExitCode> {
    match command {
        Command::Run(args) => return pipeline::run::execute(args, app).await,
        Command::Init(args) => init::execute(args, app).await?,
        Command::Doctor(args) => doctor::execute(args, app).await?,
        Command::Explain(args) => explain::execute(args, app).await?,
        Command::Plan(args) => pipeline::plan::execute(args, app).await?,
        Command::Task(args) => pipeline::task::execute(args, app).await?,
        Command::Publish(args) => return pipeline::publish::execute(args, app).await,
        Command::Purge(args) => purge::execute(args, app).await?,
        Command::Search(args) => search::execute(args, app).await?,
        Command::Serve(args) => serve::execute(args, app).await?,
        Command::Snapshot(args) => snapshot::execute(args, app).await?,
        Command::Tower(args) => tower::execute(args, app).await?,
        Command::Train(args) => learn::train::execute(args, app).await?,
        Command::Mine(args) => learn::mine::execute(args, app).await?,
        Command::Whiten(args) => learn::whiten::execute(args, app).await?,
        Command::Distill(args) => learn::distill::execute(args, app).await?,
        Command::Cluster(args) => cluster::execute(args, app).await?,
        Command::Evaluate(args) => learn::evaluate::execute(args, app).await?,
        Command::Config(args) => config::execute(args, app).await?,
        Command::Schema(args) => schema::execute(&args, app)?,
        Command::Completions(args) => completions::execute(&args, Cli::command(), app)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::ValueHint;

    use super::*;

    /// Counts the arguments that name a path, and has each refuse another user's home folder: so it knows `~`.
    fn paths(command: &clap::Command) -> usize {
        let mut count: usize = command.get_subcommands().map(paths).sum();
        for argument in command.get_arguments() {
            let named = ["root", "model"].contains(&argument.get_id().as_str());
            if !named && argument.get_value_hint() != ValueHint::AnyPath {
                continue;
            }
            let mut words = vec![command.get_name().to_owned()];
            match argument.get_long() {
                Some(flag) => words.push(format!("--{flag}=~nobody/x")),
                None => {
                    let before = command
                        .get_positionals()
                        .take_while(|other| other.get_id() != argument.get_id());
                    words.extend(before.map(|_| "x".to_owned()));
                    words.push("~nobody/x".to_owned());
                }
            }
            let error = command.clone().try_get_matches_from(&words).unwrap_err().to_string();
            assert!(error.contains("home folder of the user `nobody`"), "{words:?}: {error}");
            count += 1;
        }
        count
    }

    #[test]
    fn every_path_on_the_command_line_knows_the_home_folder() {
        let count = paths(&command());
        assert!(count >= 35, "{count} paths");
    }

    #[test]
    fn every_subcommand_shows_examples_that_fit_a_terminal() {
        fn check(command: &mut clap::Command) {
            if command.get_name() == "help" {
                return;
            }
            let help = command.render_long_help().to_string();
            let name = command.get_name();
            assert!(help.contains("Examples:"), "{name} has no examples\n{help}");
            let widest = help.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(110), "{name}: a line of {widest:?} characters");
            command.get_subcommands_mut().for_each(check);
        }
        command().get_subcommands_mut().for_each(check);
    }
}
