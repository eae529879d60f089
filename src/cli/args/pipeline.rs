//! The pipeline file on the command line, and what is changed in it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::Resolved;
use crate::error::Result;

/// The pipeline file and what is changed in it.
#[derive(Debug, Clone, Args)]
pub(crate) struct PipelineArgs {
    /// Pipeline file (TOML). Relative paths in it are resolved against its own directory; `~/` is
    /// the home folder.
    #[arg(value_name = "PIPELINE", env = "SCALINGNOTE_PIPELINE", value_parser = super::place::path())]
    pub pipeline: PathBuf,
    /// Override one value. Repeatable; the last one wins. VALUE is TOML, but a plain string needs
    /// no quotes. Takes precedence over SCALINGNOTE__SECTION__KEY in the environment, which takes
    /// precedence over the file.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

impl PipelineArgs {
    /// The checked pipeline.
    pub fn resolve(&self) -> Result<Resolved> {
        resolve(&self.pipeline, &self.set)
    }
}

/// Reads a pipeline file with this process's environment.
pub(crate) fn resolve(file: &Path, set: &[String]) -> Result<Resolved> {
    crate::config::resolve(file, environment(), set)
}

/// This process's environment. A variable that is not Unicode cannot be one of ours; `std::env::vars` would panic on it.
pub(crate) fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
