//! `scalingnote schema`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::App;
use crate::config::Pipeline;
use crate::error::{ErrorKind, Result, ResultExt, kind_of_io};
use crate::report::{PlanBrief, PlanSummary, RunReport};
use crate::stage::Plan;
use crate::train::{DistillOptions, TrainOptions};

/// Print the JSON Schema of a file that scalingnote reads or writes
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  scalingnote schema pipeline > pipeline.schema.json    completion in an editor (taplo, Even Better TOML)
  scalingnote schema report | jq .properties
  scalingnote schema --out schemas                      write all of them"
)]
pub(crate) struct SchemaArgs {
    /// Which file.
    #[arg(value_enum, required_unless_present = "out")]
    name: Option<SchemaName>,
    /// Write all schemas into this directory instead, as NAME.schema.json.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaName {
    /// The pipeline file.
    Pipeline,
    /// The recipe of `train`.
    Train,
    /// The recipe of `distill`.
    Distill,
    /// snapshots/<number>.json.
    Manifest,
    /// runs/<run>/report.json.
    Report,
    /// What `plan --json` prints.
    PlanSummary,
    /// What `plan --brief` prints.
    PlanBrief,
    /// runs/<run>/plan.json: the tasks that `task` executes.
    Plan,
}

impl SchemaName {
    fn json(self) -> Result<String> {
        let value = match self {
            Self::Pipeline => Pipeline::json_schema(),
            Self::Train => {
                let mut schema = schemars::schema_for!(TrainOptions);
                schema.insert("title".to_owned(), "scalingnote training recipe".into());
                schema.to_value()
            }
            Self::Distill => {
                let mut schema = schemars::schema_for!(DistillOptions);
                schema.insert("title".to_owned(), "scalingnote distillation recipe".into());
                schema.to_value()
            }
            Self::Manifest => crate::snapshot::json_schema(),
            Self::Report => schemars::schema_for!(RunReport).to_value(),
            Self::Plan => schemars::schema_for!(Plan).to_value(),
            Self::PlanSummary => schemars::schema_for!(PlanSummary).to_value(),
            Self::PlanBrief => schemars::schema_for!(PlanBrief).to_value(),
        };
        let mut text = serde_json::to_string_pretty(&value)
            .or_error(ErrorKind::Internal, || "writing a schema")?;
        text.push('\n');
        Ok(text)
    }
}

pub(super) fn execute(args: &SchemaArgs, app: &App) -> Result<ExitCode> {
    if let Some(name) = args.name {
        app.console.print(&name.json()?);
    }
    if let Some(folder) = &args.out {
        let failed = |cause: std::io::Error, path: &std::path::Path| {
            crate::error::Error::new(
                kind_of_io(&cause),
                format!("{} cannot be written", path.display()),
            )
            .with_source(cause)
        };
        std::fs::create_dir_all(folder).map_err(|cause| failed(cause, folder))?;
        for name in SchemaName::value_variants() {
            let value = name.to_possible_value();
            let value = value.as_ref().map_or("schema", |value| value.get_name());
            let path = folder.join(format!("{value}.schema.json"));
            std::fs::write(&path, name.json()?).map_err(|cause| failed(cause, &path))?;
            app.console.print(&format!("{}\n", path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
