//! What a run works with and what it is asked to do.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::ClusterOptions;
use crate::config::{Pipeline, word};
use crate::error::Result;
use crate::observe::Reporter;
use crate::report::{ConfigSummary, RunReport};
use crate::snapshot;
use crate::stage;
use crate::store::Root;
use crate::types::{Cancel, Pooling};

/// What a run works with.
#[derive(Clone)]
pub struct RunContext {
    /// The resolved pipeline.
    pub pipeline: Pipeline,
    /// Where everything is stored.
    pub root: Root,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation and deadline.
    pub cancel: Cancel,
}

/// What a run is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// Stop after the plan is stored.
    pub only_plan: bool,
    /// Gates that may fail, each with its reason.
    pub overrides: Vec<(String, String)>,
    /// Stop after the indexes are built.
    pub no_publish: bool,
    /// Attempts of a task whose failure may pass, with growing pauses between them; at least 1.
    pub attempts: u32,
    /// How long to wait for another run of the same root to end.
    pub wait: Duration,
    /// Where tasks are executed instead of in this process; a plan that is only made is made here.
    pub cluster: Option<ClusterOptions>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            only_plan: false,
            overrides: Vec::new(),
            no_publish: false,
            attempts: 4,
            wait: Duration::ZERO,
            cluster: None,
        }
    }
}

impl RunOptions {
    /// Whether a person decided to encode with a tower that drifted.
    pub(crate) fn overrides_drift(&self) -> bool {
        self.overrides.iter().any(|(gate, _)| gate == "drift")
    }
}

impl RunContext {
    /// The report of a run that begins now.
    pub(crate) fn report(&self, run: &str) -> RunReport {
        RunReport::begin(run, self.config_summary(), self.pipeline.gates.recall_min)
    }

    /// What the report says of the configuration; the plan adds the rest.
    pub(crate) fn config_summary(&self) -> ConfigSummary {
        let pipeline = &self.pipeline;
        ConfigSummary {
            pipeline: pipeline.file.display().to_string(),
            root: self.root.uri().to_owned(),
            model: pipeline.tower.model.clone(),
            pooling: pipeline.tower.pooling.map_or("as the model says", Pooling::name).to_owned(),
            max_tokens: pipeline.tower.max_tokens(),
            arithmetic: word(&pipeline.tower.arithmetic),
            devices: pipeline.encode.devices.clone(),
            quantization: word(&pipeline.index.quantization),
            ..ConfigSummary::default()
        }
    }

    /// Refuses a root that can only be read or in which a table is, and to begin a root inside another one, or around
    /// one: each would find the other's notes under itself. One that is so already continues, with a warning. Nothing
    /// was written before.
    pub(crate) async fn admit_root(&self) -> Result<()> {
        let root = &self.root;
        root.require_writable()?;
        self.pipeline.refuse_tables_in(root).await?;
        if snapshot::numbers(root).await?.is_empty() {
            return root.refuse_nesting().await;
        }
        if let Some(above) = root.root_above().await {
            self.reporter.warn(format!(
                "{} is inside the root {above}: a purge there looks into this one too, and says what it leaves here; move \
                 one of them",
                root.uri()
            ));
        }
        Ok(())
    }

    /// Deletes the prepared notes of a run.
    pub(crate) async fn discard_prepared(&self, run: &str) -> Result<()> {
        stage::discard_prepared(&self.root, run).await
    }
}
