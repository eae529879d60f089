//! `scalingnote schema`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::app::{App, pretty};
use super::args::place;
use crate::config::Pipeline;
use crate::error::{Result, ResultExt, not_written};
use crate::report::{PlanBrief, PlanSummary, RunReport, SharesBrief};
use crate::stage::{Plan, SharesPlan};
use crate::store::named::{Existing, write_whole};
use crate::train::{DistillOptions, TrainOptions};

/// Print the JSON Schema of a file that scalingnote reads or writes
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  scalingnote schema pipeline > pipeline.schema.json    editor completion (taplo, Even Better TOML)
  scalingnote schema report | jq .properties
  scalingnote schema --out schemas                      write all of them"
)]
pub(crate) struct SchemaArgs {
    /// Schema to print.
    #[arg(value_enum, required_unless_present = "out")]
    name: Option<SchemaName>,
    /// Write all schemas to this directory instead, as NAME.schema.json.
    #[arg(long, value_name = "DIR", conflicts_with = "name", value_parser = place::path())]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaName {
    /// The pipeline file.
    Pipeline,
    /// The recipe for `train`.
    Train,
    /// The recipe for `distill`.
    Distill,
    /// snapshots/<number>.json.
    Manifest,
    /// runs/<run>/report.json.
    Report,
    /// The output of `plan --json`.
    PlanSummary,
    /// The output of `plan --brief`.
    PlanBrief,
    /// runs/<run>/plan.json: the tasks that `task` executes.
    Plan,
    /// The output of `plan --shares`.
    SharesBrief,
    /// runs/<run>/shares.json: the shares of the corpus that `task` reads and gathers.
    Shares,
}

impl SchemaName {
    fn json(self) -> Result<String> {
        let value = match self {
            Self::Pipeline => Pipeline::json_schema(),
            Self::Train => titled(schemars::schema_for!(TrainOptions), "training recipe"),
            Self::Distill => titled(schemars::schema_for!(DistillOptions), "distillation recipe"),
            Self::Manifest => crate::snapshot::json_schema(),
            Self::Report => schemars::schema_for!(RunReport).to_value(),
            Self::Plan => schemars::schema_for!(Plan).to_value(),
            Self::PlanSummary => schemars::schema_for!(PlanSummary).to_value(),
            Self::PlanBrief => schemars::schema_for!(PlanBrief).to_value(),
            Self::SharesBrief => schemars::schema_for!(SharesBrief).to_value(),
            Self::Shares => schemars::schema_for!(SharesPlan).to_value(),
        };
        pretty(&value)
    }
}

fn titled(mut schema: schemars::Schema, title: &str) -> serde_json::Value {
    schema.insert("title".to_owned(), format!("scalingnote {title}").into());
    schema.to_value()
}

pub(super) fn execute(args: &SchemaArgs, app: &App) -> Result<()> {
    if let Some(name) = args.name {
        app.print(&name.json()?)?;
    }
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).map_err(|cause| not_written(folder, cause))?;
        let mut listing = String::new();
        for name in SchemaName::value_variants() {
            let value = name.to_possible_value();
            let value = value.as_ref().map_or("schema", |value| value.get_name());
            let path = folder.join(format!("{value}.schema.json"));
            write_whole(&path, name.json()?, Existing::Replace)
                .map_err(|cause| not_written(&path, cause))?;
            listing += &format!("{}\n", path.display());
        }
        app.print(&listing).context(|| "the schemas are written, but could not be listed")?;
    }
    Ok(())
}
