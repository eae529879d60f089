//! `scalingnote config check|show|upgrade`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::app::App;
use super::args::{PipelineArgs, environment, place};
use crate::config::{self, DefaultChange, ModelSaid, Pipeline, PipelineVersion, Resolved, Upgrade};
use crate::error::{Error, ErrorKind, Result, ResultExt, not_written};
use crate::exec;
use crate::store::named::{Existing, write_whole};
use crate::tower::Tower;

/// Check a pipeline file, show it with every default and override, or upgrade it to the newest version
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  scalingnote config check daily.toml
  scalingnote config show daily.toml --set gates.recall_min=0.9
  scalingnote config show daily.toml --json | jq .origins
  scalingnote config upgrade daily.toml --dry-run

A value comes from the file, then from SCALINGNOTE__SECTION__KEY in the environment
(SCALINGNOTE__TOWER__MAX_TOKENS=256), then from --set section.key=value: the last one wins.
Array items are numbered: corpus.tables.0.uri. Relative paths are resolved against the file's
directory; `~/` is the home folder."
)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report all problems at once, each with its line; exits with 1 or 2 if there are any
    Check {
        #[command(flatten)]
        pipeline: PipelineArgs,
    },
    /// Print the resolved configuration, with the origin of what is not in the file
    ///
    /// Comments name the origin of every value that is not in the file. What a tower leaves out is
    /// taken from its model's files, if they are on this machine.
    Show {
        #[command(flatten)]
        pipeline: PipelineArgs,
        /// Print JSON with the origin of every value.
        #[arg(long)]
        json: bool,
        /// Download missing models, to show what their files say.
        #[arg(long)]
        fetch: bool,
    },
    Upgrade(UpgradeArgs),
}

/// Rewrite a pipeline file as version 2, keeping its comments and layout
///
/// Version 2 changes some defaults. Where that would change anything for this file, the current
/// value is written into it, so that the file still means the same and nothing is encoded again.
/// `config check` lists these defaults.
#[derive(Debug, Args)]
struct UpgradeArgs {
    /// Pipeline file (TOML).
    #[arg(value_name = "PIPELINE", env = "SCALINGNOTE_PIPELINE", value_parser = place::path())]
    pipeline: PathBuf,
    /// Use version 2's defaults instead of writing the current values into the file.
    #[arg(long)]
    new_defaults: bool,
    /// Write to this new file and leave PIPELINE unchanged; `-` is stdout.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run", value_parser = place::path())]
    output: Option<PathBuf>,
    /// Show what would be written, without writing anything.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn execute(args: ConfigArgs, app: &App) -> Result<()> {
    match args.command {
        ConfigCommand::Check { pipeline } => {
            let resolved = pipeline.resolve()?;
            let config = &resolved.pipeline;
            let unpinned = check_towers(config, app).await?;
            for wrong in exec::unusable_here(config).await? {
                app.reporter.warn(wrong);
            }
            let mut text = format!(
                "{} is fine: {} table{}, tower {}, root {}\n",
                pipeline.pipeline.display(),
                config.corpus.tables.len(),
                if config.corpus.tables.len() == 1 { "" } else { "s" },
                config.tower.model,
                config.publish.root
            );
            if let Some(next) = &config.next {
                text += &format!(
                    "next tower {}: runs encode for it what their budget leaves; `scalingnote plan` shows how far it is\n",
                    next.tower.model
                );
            }
            text += &unpinned;
            if config.version == PipelineVersion::V1 {
                text += &new_version(&resolved, &pipeline.pipeline)?;
            }
            app.print(&text)
        }
        ConfigCommand::Show { pipeline, json, fetch } => {
            let mut resolved = pipeline.resolve()?;
            ask_models(&mut resolved, fetch, app).await;
            app.print(&if json { resolved.to_json()? } else { resolved.to_toml()? })
        }
        ConfigCommand::Upgrade(args) => upgrade(&args, app),
    }
}

/// Fills in what the towers leave to their models. A model that is not here, or cannot be read, is said to be so and
/// stops nothing.
async fn ask_models(resolved: &mut Resolved, fetch: bool, app: &App) {
    let base_dir = resolved.pipeline.base_dir.clone();
    let mut models: Vec<ModelSaid> = Vec::new();
    for named in resolved.towers() {
        let options = &named.options;
        let found = match fetch {
            true => Tower::resolve(options, &base_dir, &app.reporter).await.map(Some),
            false => Tower::resolve_here(options, &base_dir, &app.reporter).await,
        };
        let card = match found {
            Ok(Some(tower)) => {
                resolved.fill(&named, &tower);
                Ok(tower.card())
            }
            Ok(None) => Err("it is not on this machine, so what its files say is not shown; `config show --fetch` fetches it"
                .to_owned()),
            Err(error) => Err(format!("it cannot be read: {error}")),
        };
        // Where one tower encodes notes and queries, its model is said once.
        if models.iter().all(|said| said.section != named.section) {
            models.push(ModelSaid { section: named.section, model: options.model.clone(), card });
        }
    }
    resolved.models = models;
}

/// Warns of files that a run could not find here: a pipeline file need not be checked where it runs. What is here must
/// fit together, as a run would have it. Returns what to say of models that no commit pins.
async fn check_towers(config: &Pipeline, app: &App) -> Result<String> {
    let after = config.after_next();
    let mut said_unpinned = String::new();
    for (pipeline, section) in [(Some(config), ""), (after.as_ref(), "next.")] {
        let Some(pipeline) = pipeline else { continue };
        let query = pipeline.query.tower.as_ref();
        let towers = [("tower", Some(&pipeline.tower)), ("query.tower", query)];
        let mut all_here = query.is_some();
        for (key, tower) in towers.into_iter().filter_map(|(key, tower)| Some((key, tower?))) {
            match tower.check_files(&pipeline.base_dir) {
                Ok(here) => all_here &= here,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    all_here = false;
                    let said = error.message();
                    app.reporter.warn(format!(
                        "[{section}{key}]: {said}; a run on this machine would fail"
                    ));
                    continue;
                }
                Err(error) => return Err(error).context(|| format!("[{section}{key}]")),
            }
            let here = Tower::check_here(tower, &pipeline.base_dir).await;
            let wrong = |error: Error| error.of_key_in(key, "model");
            match pipeline.origins.placed(here.map_err(wrong)) {
                // Executors of a cluster bring devices of their own.
                Ok(true) if key == "tower" => {
                    if let Err(error) = exec::refuse_arithmetic(pipeline) {
                        app.reporter.warn(format!("{error}; a run with these devices would fail"));
                    }
                }
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::Config | ErrorKind::Unsupported) =>
                {
                    return Err(error).context(|| format!("[{section}{key}]"));
                }
                Err(error) => {
                    all_here = false;
                    app.reporter.warn(format!(
                        "[{section}{key}]: {error}; a run on this machine would fail"
                    ));
                    continue;
                }
            }
            if tower.may_move(&pipeline.base_dir)? {
                let commit = tower.commit(&pipeline.base_dir).await?;
                said_unpinned += &unpinned(&format!("{section}{key}"), &tower.model, commit);
            }
        }
        if all_here {
            exec::check_query_tower(pipeline, &app.reporter).await?;
        }
    }
    Ok(said_unpinned)
}

/// What is said of a hub's model that no commit pins.
fn unpinned(section: &str, model: &str, commit: Option<String>) -> String {
    let line = match commit {
        Some(commit) => format!("revision = \"{commit}\""),
        None => "revision = \"<commit>\", with the one that the hub shows (it could not be asked)"
            .to_owned(),
    };
    format!(
        "[{section}] {model} is not pinned to a commit, so a push to its repository makes it another tower; write into [{section}]: \
         {line}\n"
    )
}

/// What version 2 would change in a file of version 1.
fn new_version(resolved: &Resolved, file: &Path) -> Result<String> {
    let changes = resolved.changes()?;
    if changes.is_empty() {
        return Ok("version 2 would change nothing in it\n".to_owned());
    }
    Ok(format!(
        "version 2 would change these defaults in it; `scalingnote config upgrade {}` keeps today's values:\n{}",
        file.display(),
        lines(&changes)
    ))
}

fn lines(changes: &[DefaultChange]) -> String {
    changes.iter().map(|change| format!("  {change}\n")).collect()
}

/// Writes a file as version 2, and says what became of the defaults that differ.
fn upgrade(args: &UpgradeArgs, app: &App) -> Result<()> {
    let (file, name) = (&args.pipeline, args.pipeline.display());
    let Upgrade { before, text, changes } =
        config::upgrade(file, &environment(), args.new_defaults)?;
    let defaults = match (changes.is_empty(), args.new_defaults) {
        (true, _) => "; no default of it changes\n".to_owned(),
        (_, false) => format!("; today's values are written into it:\n{}", lines(&changes)),
        (_, true) => format!("; these defaults are new:\n{}", lines(&changes)),
    };
    let unprinted = || "the file is written, but that could not be said".to_owned();
    let message = match &args.output {
        Some(output) if output.as_os_str() == "-" => {
            app.print(&text)?;
            app.reporter.info(format!("{name} as version 2{defaults}").trim_end().to_owned());
            return Ok(());
        }
        Some(output) => {
            write_whole(output, &text, Existing::Keep)
                .map_err(|cause| not_written(output, cause))?;
            let folder = |path: &Path| Some(std::path::absolute(path).ok()?.parent()?.to_owned());
            if folder(output) != folder(file) {
                let output = output.display();
                app.reporter.warn(format!("relative paths in {output} start at its own folder"));
            }
            format!("{} is {name} as version 2{defaults}", output.display())
        }
        None if before == PipelineVersion::V2 => {
            return app.print(&format!("{name} is version 2 already\n"));
        }
        None if args.dry_run => {
            return app.print(&format!("{name} would become version 2{defaults}"));
        }
        None => {
            write_whole(file, &text, Existing::Replace)
                .map_err(|cause| not_written(file, cause))?;
            format!("{name} is version 2 now{defaults}")
        }
    };
    app.print(&message).context(unprinted)
}
