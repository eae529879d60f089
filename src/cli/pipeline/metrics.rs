//! `--metrics-file`: the metrics of a run for Prometheus.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::app::App;
use crate::cli::args::{PipelineArgs, place};
use crate::error::Result;
use crate::report::{RunReport, check_metrics_file, write_metrics};

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MetricsArgs {
    /// Write metrics for Prometheus' textfile collector when the run ends, even if it fails. Use a
    /// separate file for each pipeline: the pipeline's name, taken from its file name, labels every
    /// sample. The file must not hold anything else.
    #[arg(long, value_name = "FILE", env = "SCALINGNOTE_METRICS_FILE", value_parser = place::path())]
    pub metrics_file: Option<PathBuf>,
}

impl MetricsArgs {
    /// Refuses a path that metrics cannot be written to, before any work starts.
    pub fn check(&self) -> Result<()> {
        self.metrics_file.as_deref().map_or(Ok(()), check_metrics_file)
    }

    /// Writes what is known of a run that ends with `outcome`, and passes its exit code on. A file that cannot be
    /// written is a warning: a finished run must not fail for it.
    pub fn record(
        &self,
        pipeline: &PipelineArgs,
        report: &RunReport,
        outcome: Result<u8>,
        app: &App,
    ) -> Result<ExitCode> {
        if let Some(file) = &self.metrics_file {
            let code = match &outcome {
                Ok(code) => *code,
                Err(error) => error.kind().exit_code(),
            };
            let name = pipeline.pipeline.file_stem().unwrap_or_default().to_string_lossy();
            if let Err(error) = write_metrics(file, &name, report, code) {
                app.warn(&error);
            }
        }
        outcome.map(ExitCode::from)
    }
}
