//! `scalingnote run`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::metrics::MetricsArgs;
use super::next;
use crate::cli::app::App;
use crate::cli::args::{PipelineArgs, duration};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec::{self, ClusterOptions, RunContext, RunOptions, SchedulerAddress};
use crate::report::{Outcome, RunReport};
use crate::stage::GateOptions;
use crate::store::layout::{self, ReportName};

/// Run the whole pipeline: prepare, encode, build, publish
///
/// Only what changed is processed: texts that were encoded before keep their vectors, finished
/// tasks are skipped, and if nothing changed, nothing is published (exit code 0). You can interrupt
/// a run at any time; the same command resumes it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote run pipelines/quickstart.toml
  scalingnote run daily.toml --deadline 2h                  stop in time and resume tomorrow (exits
                                                            with 75, or 0 if only [next] is left)
  scalingnote run daily.toml --set tower.max_tokens=256     change one value
  SCALINGNOTE__PUBLISH__ROOT=s3://bucket/notes scalingnote run daily.toml
  scalingnote run daily.toml --override count-change --reason \"old notes were purged\"
  scalingnote run daily.toml --progress json 2> progress.jsonl
  scalingnote run daily.toml --cluster df://10.0.0.1:50050  on a cluster (see cluster --help)

Every run stores its report under the root: runs/<run id>/report.html and report.json.")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Stop cleanly after this time (90s, 45m, 2h, 1h30m); run again to resume.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub deadline: Option<Duration>,
    /// How long to wait for another run of the same root to finish (30m, 2h). By default it does
    /// not wait, and exits with 75 instead.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "0s")]
    pub wait: Duration,
    #[command(flatten)]
    pub overrides: OverrideArgs,
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// Build everything, but publish nothing.
    #[arg(long)]
    pub no_publish: bool,
    /// Stop once the plan and its tasks are stored; `scalingnote task` runs them elsewhere.
    #[arg(long)]
    pub plan_only: bool,
    /// Let the executors of this cluster do the work; this process only checks the gates and
    /// publishes.
    #[arg(long, value_name = "df://HOST:PORT", conflicts_with = "plan_only")]
    pub cluster: Option<SchedulerAddress>,
    /// How long all executors may be silent before the job is submitted again. After four failed
    /// submissions, the run exits with 75.
    #[arg(long, value_name = "TIME", requires = "cluster", value_parser = duration::parse)]
    pub patience: Option<Duration>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Gates that may refuse without stopping the publication.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OverrideArgs {
    /// Publish even if this gate refuses. Repeatable; each needs its own --reason.
    #[arg(long = "override", value_name = "GATE", requires = "reason",
          value_parser = PossibleValuesParser::new(GateOptions::NAMES))]
    pub overrides: Vec<String>,
    /// Reason for overriding the gate; recorded in the snapshot.
    #[arg(long = "reason", value_name = "TEXT", requires = "overrides")]
    pub reason: Vec<String>,
}

impl OverrideArgs {
    /// Each gate with its reason.
    pub fn pairs(&self) -> Result<Vec<(String, String)>> {
        if self.overrides.len() != self.reason.len() {
            return Err(Error::usage(format!(
                "{} --override but {} --reason; give each override its own reason",
                self.overrides.len(),
                self.reason.len()
            )));
        }
        if self.reason.iter().any(|reason| reason.trim().is_empty()) {
            return Err(Error::usage("a --reason is empty; say why"));
        }
        Ok(self.overrides.iter().cloned().zip(self.reason.iter().cloned()).collect())
    }
}

/// Opens the root and puts together what `exec` needs.
pub(crate) fn context(pipeline: &PipelineArgs, app: &App) -> Result<RunContext> {
    let pipeline = pipeline.resolve()?.pipeline;
    let (reporter, cancel) = (app.reporter.clone(), app.cancel.clone());
    let root = pipeline.open_root()?.with_cancel(cancel.clone());
    root.require_writable()?;
    Ok(RunContext { pipeline, root, reporter, cancel })
}

pub(crate) async fn execute(args: RunArgs, app: &App) -> Result<ExitCode> {
    args.metrics.check()?;
    let mut report = RunReport::default();
    let outcome = attempt(&args, app, &mut report).await;
    args.metrics.record(&args.pipeline, &report, outcome, app)
}

async fn attempt(args: &RunArgs, app: &App, report: &mut RunReport) -> Result<u8> {
    let options = RunOptions {
        only_plan: args.plan_only,
        overrides: args.overrides.pairs()?,
        no_publish: args.no_publish,
        wait: args.wait,
        cluster: args.cluster.clone().map(|scheduler| ClusterOptions {
            scheduler,
            patience: args.patience.unwrap_or(ClusterOptions::PATIENCE),
        }),
        ..RunOptions::default()
    };
    let context = context(&args.pipeline, app)?;
    exec::run_into(&context, &options, report).await?;
    finish(report, &context, &args.pipeline, args.json, app)
}

/// Prints the report; the exit code follows from the outcome.
///
/// # Errors
/// Where the report cannot be printed, although all went well. A refusal keeps its exit code.
pub(crate) fn finish(
    report: &RunReport,
    context: &RunContext,
    pipeline: &PipelineArgs,
    json: bool,
    app: &App,
) -> Result<u8> {
    let printed = app.print(&if json {
        report.to_json()?
    } else {
        format!(
            "{report}  report   {}\n{}",
            page(report, context),
            next::after(report, context, pipeline)
        )
    });
    let printed = printed.context(|| unprinted(report, context));
    match (exit_code(report), printed) {
        (0, Err(error)) => Err(error),
        (code, printed) => {
            printed.unwrap_or_else(|error| app.warn(&error));
            Ok(code)
        }
    }
}

/// Where the report is.
fn page(report: &RunReport, context: &RunContext) -> String {
    let file = layout::report_page(&report.run, ReportName(1));
    context.root.local_path(&file).map_or_else(
        || format!("{}/{file}", context.root.uri().trim_end_matches('/')),
        |path| path.display().to_string(),
    )
}

/// What is done, where only telling it failed.
fn unprinted(report: &RunReport, context: &RunContext) -> String {
    let done = match report.outcome {
        Outcome::Planned => return "the plan is stored, but could not be printed".to_owned(),
        Outcome::Published { snapshot } => format!("snapshot {snapshot} is published"),
        Outcome::NothingToDo { .. } => "the run is done, with nothing to publish".to_owned(),
        Outcome::NotPublished => "everything is built, with nothing to publish".to_owned(),
        Outcome::GateRefused | Outcome::LostTo { .. } | Outcome::Unfinished => {
            "the run has ended".to_owned()
        }
    };
    format!("{done}; only its report could not be printed; it is at {}", page(report, context))
}

fn exit_code(report: &RunReport) -> u8 {
    if report.is_refused() {
        return ErrorKind::GateRefused.exit_code();
    }
    match report.outcome {
        Outcome::Published { .. }
        | Outcome::NothingToDo { .. }
        | Outcome::Planned
        | Outcome::NotPublished => 0,
        Outcome::GateRefused => ErrorKind::GateRefused.exit_code(),
        Outcome::LostTo { .. } => ErrorKind::Conflict.exit_code(),
        Outcome::Unfinished => 1,
    }
}
