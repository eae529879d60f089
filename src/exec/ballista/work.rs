//! What an executor is asked to do, as JSON, and the receipts of what is not a task of a plan.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Pipeline;
use crate::stage::Envelope;
use crate::store::StorageOptions;
use crate::store::receipt::Receipt;

/// What all tasks of a job share: where they work, and for which run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// The run that holds the lease of the root.
    pub run: String,
    /// The root.
    pub root: String,
    /// How it is reached. Credentials are the executor's own.
    pub storage: StorageOptions,
}

/// One task. It holds no handle and no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "lowercase")]
pub(super) enum Work {
    /// Read the corpus, plan, store the plan.
    Prepare {
        pipeline: Box<Pipeline>,
        /// Where relative paths start; the same on every machine.
        base_dir: PathBuf,
        /// Places of the tables whose addresses are signed. The signatures are the executor's own, as all secrets are.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        signed: Vec<usize>,
    },
    /// Self-test and drift, before anything is encoded.
    Check {
        /// The run of the stored plan.
        plan: String,
        self_test: bool,
    },
    /// A task of a plan.
    Task { envelope: Box<Envelope> },
}

impl Work {
    /// Reading the corpus of a pipeline.
    pub fn prepare(pipeline: &Pipeline) -> Self {
        let mut pipeline = Box::new(pipeline.clone());
        let signed = pipeline.hide_signatures();
        Self::Prepare { base_dir: pipeline.base_dir.clone(), pipeline, signed }
    }

    /// Name of the task, the task's id where it is one.
    pub fn id(&self) -> &str {
        match self {
            Self::Prepare { .. } => "prepare",
            Self::Check { .. } => "check",
            Self::Task { envelope } => envelope.id(),
        }
    }
}

/// Which attempt of `prepare` counts, and what is not a part of its plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PreparedReceipt {
    /// The run id of the plan: every attempt has its own, so that no attempt can write into another's files.
    pub plan: String,
    pub texts: u64,
    pub lengths: BTreeMap<u32, u64>,
    pub seconds: f64,
}

impl Receipt for PreparedReceipt {}

/// What the check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CheckedReceipt {
    /// Least cosine and how many notes were compared.
    pub drift: Option<(f64, usize)>,
}

impl Receipt for CheckedReceipt {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_survives_the_way_to_an_executor() {
        let text = "version = 1\n[corpus]\nsql = 'SELECT 1'\ntemplate = '{{ body }}'\n\
                    [[corpus.tables]]\nname = 'notes'\nuri = 'notes.jsonl'\n\
                    [tower]\nmodel = 'fake:8'\npooling = 'mean'\n[publish]\nroot = 'root'\n";
        let address = "https://host/notes.jsonl?X-Amz-Signature=SECRET";
        let env = [("SCALINGNOTE__CORPUS__TABLES__0__URI".to_owned(), address.to_owned())];
        for (env, places) in [(vec![], vec![]), (env.to_vec(), vec![0])] {
            let base = "/pipelines".as_ref();
            let resolved = crate::config::resolve_text(text, "p.toml", base, env, &[]).unwrap();
            let work = Work::prepare(&resolved.pipeline);
            let json = serde_json::to_string(&work).unwrap();
            assert!(!json.contains("SECRET"), "{json}");
            let Work::Prepare { mut pipeline, base_dir, signed } =
                serde_json::from_str(&json).unwrap()
            else {
                panic!("{json}");
            };
            assert_eq!(signed, places);
            pipeline.base_dir.clone_from(&base_dir);
            assert_eq!(Work::Prepare { pipeline, base_dir, signed }, work);
        }
    }
}
