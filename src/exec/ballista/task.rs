//! What an executor is asked to do, as JSON, and the receipts of what is not a task of a plan.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Pipeline;
use crate::error::Result;
use crate::stage::{Envelope, Planned, SharesPlan};
use crate::store::StorageOptions;
use crate::store::receipt::Receipt;

/// What all tasks of a job share: where they work, and for which run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunTarget {
    /// The run that holds the lease of the root.
    pub run: String,
    /// The root.
    pub root: String,
    /// How it is reached. Credentials are the executor's own.
    pub storage: StorageOptions,
}

/// One task. It holds no handle and no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum ClusterTask {
    /// Find out how the corpus is read. Where one task reads it: read it, plan, store the plan.
    Prepare { notes: Notes },
    /// Read some shares of the corpus.
    Read { notes: Notes, run: String, shares: Range<u32> },
    /// Gather some shards of what was read.
    Gather { notes: Notes, run: String, shards: Range<u32> },
    /// Plan with what was gathered, store the plan.
    Plan { notes: Notes, run: String },
    /// Self-test and drift, before anything is encoded.
    Check {
        /// The run of the stored plan.
        plan: String,
        self_test: bool,
    },
    /// A task of a plan.
    Task { envelope: Box<Envelope> },
}

impl ClusterTask {
    /// Name of the task, the task's id where it is one of a plan.
    pub fn id(&self) -> String {
        match self {
            Self::Prepare { .. } => "prepare".to_owned(),
            Self::Read { shares, .. } => format!("read-{:05}", shares.start),
            Self::Gather { shards, .. } => format!("gather-{:05}", shards.start),
            Self::Plan { .. } => "plan".to_owned(),
            Self::Check { .. } => "check".to_owned(),
            Self::Task { envelope } => envelope.id().to_owned(),
        }
    }
}

/// The pipeline whose notes are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Notes {
    pipeline: Box<Pipeline>,
    /// Where relative paths start; the same on every machine.
    base_dir: PathBuf,
    /// Places of the tables whose addresses are signed. The signatures are the executor's own, as all secrets are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    signed: Vec<usize>,
}

impl Notes {
    pub fn of(pipeline: &Pipeline) -> Self {
        let mut pipeline = Box::new(pipeline.clone());
        let signed = pipeline.hide_signatures();
        Self { base_dir: pipeline.base_dir.clone(), pipeline, signed }
    }

    /// The pipeline, with what this process knows of it.
    ///
    /// # Errors
    /// Config where a signature is not in the environment.
    pub fn pipeline(&self) -> Result<Pipeline> {
        let mut pipeline = self.pipeline.as_ref().clone();
        pipeline.base_dir.clone_from(&self.base_dir);
        pipeline.find_signatures(&self.signed, |name| std::env::var(name).ok())?;
        Ok(pipeline)
    }
}

/// How the corpus of a run is read. The first attempt to put it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReadingReceipt {
    /// `None` where one task reads it.
    pub shares: Option<SharedReading>,
}

impl Receipt for ReadingReceipt {}

/// A corpus that is read in shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SharedReading {
    /// The run id of the plan of the shares, and of the plan that follows: every attempt has its own.
    pub run: String,
    pub shares: u32,
    pub shards: u32,
    /// Shares and shards that a task has at most: an executor works on so many side by side.
    pub side_by_side: u32,
}

impl SharedReading {
    pub fn of(plan: &SharesPlan) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            run: plan.run.clone(),
            shares: plan.corpus.shares.len() as u32,
            shards: plan.corpus.shard_count,
            side_by_side: cores as u32,
        }
    }

    /// The tasks that read.
    pub fn read(&self, notes: &Notes) -> Vec<ClusterTask> {
        let task = |shares| {
            let (notes, run) = (notes.clone(), self.run.clone());
            ClusterTask::Read { notes, run, shares }
        };
        self.ranges(self.shares).map(task).collect()
    }

    /// The tasks that gather.
    pub fn gather(&self, notes: &Notes) -> Vec<ClusterTask> {
        let task = |shards| {
            let (notes, run) = (notes.clone(), self.run.clone());
            ClusterTask::Gather { notes, run, shards }
        };
        self.ranges(self.shards).map(task).collect()
    }

    /// Four tasks at least, so that several machines have something to do.
    fn ranges(&self, all: u32) -> impl Iterator<Item = Range<u32>> {
        let many = self.side_by_side.clamp(1, all.div_ceil(4).max(1));
        (0..all).step_by(many as usize).map(move |start| start..all.min(start + many))
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

impl PreparedReceipt {
    pub fn of(plan: String, planned: &Planned) -> Self {
        let (texts, lengths, seconds) = (planned.texts, planned.lengths.clone(), planned.seconds);
        Self { plan, texts, lengths, seconds }
    }
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
            let notes = Notes::of(&resolved.pipeline);
            let json = serde_json::to_string(&notes).unwrap();
            assert!(!json.contains("SECRET"), "{json}");
            let mut back: Notes = serde_json::from_str(&json).unwrap();
            assert_eq!(back.signed, places);
            back.pipeline.base_dir.clone_from(&back.base_dir);
            // For people at the driver.
            back.pipeline.file.clone_from(&notes.pipeline.file);
            assert_eq!(back, notes);
        }
    }

    #[test]
    fn every_share_is_in_one_task_and_no_machine_gets_all() {
        for (all, cores, tasks) in [(2, 16, 2), (3, 1, 3), (5, 16, 3), (64, 16, 4), (1000, 16, 63)]
        {
            let run = "20260101T000000Z-0badcafe".to_owned();
            let reading = SharedReading { run, shares: all, shards: 1, side_by_side: cores };
            let ranges: Vec<Range<u32>> = reading.ranges(all).collect();
            assert_eq!(ranges.len(), tasks, "{ranges:?}");
            assert!(ranges.iter().cloned().flatten().eq(0..all), "{ranges:?}");
        }
    }
}
