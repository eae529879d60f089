//! `scalingnote config check|show`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::app::App;
use super::args::PipelineArgs;
use crate::config::Pipeline;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::exec;
use crate::observe::Event;

/// Check a pipeline file, or show it with every default and override
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  scalingnote config check daily.toml
  scalingnote config show daily.toml --set gates.recall_min=0.9
  scalingnote config show daily.toml --json | jq .origins

A value comes from the file, then SCALINGNOTE__SECTION__KEY in the environment
(SCALINGNOTE__TOWER__MAX_TOKENS=256), then --set section.key=value: the later one wins.
Items of an array are numbered: corpus.tables.0.uri. Relative paths start at the file's directory."
)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every problem at once with its line; exit code 2 if there is one
    Check {
        #[command(flatten)]
        pipeline: PipelineArgs,
    },
    /// Print the resolved configuration; comments name the origin of what is not in the file
    Show {
        #[command(flatten)]
        pipeline: PipelineArgs,
        /// Print JSON with the origin of every value.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn execute(args: ConfigArgs, app: &App) -> Result<ExitCode> {
    match args.command {
        ConfigCommand::Check { pipeline } => {
            let resolved = pipeline.resolve()?;
            let config = &resolved.pipeline;
            check_towers(config, app).await?;
            app.console.print(&format!(
                "{} is fine: {} table{}, tower {}, root {}\n",
                pipeline.pipeline.display(),
                config.corpus.tables.len(),
                if config.corpus.tables.len() == 1 { "" } else { "s" },
                config.tower.model,
                config.publish.root
            ));
            if let Some(next) = &config.next {
                app.console.print(&format!(
                    "next tower {}: runs encode for it what their budget leaves; `scalingnote plan` shows how far it is\n",
                    next.tower.model
                ));
            }
        }
        ConfigCommand::Show { pipeline, json } => {
            let resolved = pipeline.resolve()?;
            app.console.print(&if json { resolved.to_json()? } else { resolved.to_toml()? });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Warns of files that a run could not find here: a pipeline file need not be checked where it runs. What is here must fit together,
/// as a run would have it.
async fn check_towers(config: &Pipeline, app: &App) -> Result<()> {
    let after = config.after_next();
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
                    let message =
                        format!("[{section}{key}]: {said}; a run on this machine would fail");
                    app.reporter.event(Event::Warning { message });
                }
                Err(error) => return Err(error).context(|| format!("[{section}{key}]")),
            }
        }
        if all_here {
            exec::check_query_tower(pipeline, &app.reporter).await?;
        }
    }
    Ok(())
}
