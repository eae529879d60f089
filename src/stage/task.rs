//! One door for every driver: `execute` runs an envelope against what the worker has at hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::build::{self, BuildReceipt};
use super::calibrate::{self, CalibrateReceipt};
use super::device::Loaded;
use super::encode::{self, EncodeReceipt};
use super::plan::{Envelope, RunSpec};
use super::windows::SharedWork;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::Reporter;
use crate::store::{PutOutcome, Root};
use crate::tower::{DeviceSpec, Tower};
use crate::types::Cancel;

/// What a worker binds an envelope to.
#[derive(Clone)]
pub struct TaskEnv {
    /// Where everything lies.
    pub root: Root,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: Cancel,
    /// What encode tasks have stored for good so far, whether or not they come to their end.
    pub kept: Arc<Kept>,
    /// The encode tasks at work, whose batches idle workers take.
    pub shared: Arc<SharedWork>,
}

/// Parts that are stored with their receipts: the next run does not encode their texts again.
#[derive(Debug, Default)]
pub struct Kept {
    parts: AtomicU64,
    texts: AtomicU64,
    tokens: AtomicU64,
    bytes: AtomicU64,
}

impl Kept {
    pub(super) fn add(&self, texts: u64, tokens: u64, bytes: u64) {
        self.parts.fetch_add(1, Ordering::Relaxed);
        self.texts.fetch_add(texts, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Number of parts.
    pub fn parts(&self) -> u64 {
        self.parts.load(Ordering::Relaxed)
    }

    /// Their texts.
    pub fn texts(&self) -> u64 {
        self.texts.load(Ordering::Relaxed)
    }

    /// Their tokens, prompt included.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What a finished task wrote. Running a task whose receipt exists returns that receipt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum TaskReceipt {
    /// Of an encode task.
    Encode(EncodeReceipt),
    /// Of a calibration.
    Calibrate(CalibrateReceipt),
    /// Of a build task.
    Build(Box<BuildReceipt>),
}

/// A document tower on one device, loaded when the first text needs it and kept for the next task.
pub struct Worker {
    /// Where it computes.
    pub device: DeviceSpec,
    tower: Option<Tower>,
    loaded: Option<Loaded>,
}

impl Worker {
    /// A worker on a device; `tower` saves resolving it again where the caller has it already.
    pub fn new(device: DeviceSpec, tower: Option<Tower>) -> Self {
        Self { device, tower, loaded: None }
    }

    /// The tower of an envelope, checked against the space that the envelope was planned for: weights that
    /// changed under the same name are refused before a vector is made.
    pub(crate) async fn tower(&mut self, spec: &RunSpec, env: &TaskEnv) -> Result<Tower> {
        if let Some(tower) = &self.tower {
            if tower.space(spec.template) == spec.space {
                return Ok(tower.clone());
            }
            self.loaded = None;
        }
        let here = std::path::Path::new(".");
        let tower = Tower::resolve(&spec.tower, here, &env.reporter).await?;
        let found = tower.space(spec.template);
        if found != spec.space {
            return Err(Error::new(
                ErrorKind::Input,
                format!(
                    "the tower {} now makes space {}, but run {} was planned for space {}: \
                     the files changed under the same name; plan again",
                    spec.tower.model,
                    found.id()?,
                    spec.run,
                    spec.space_id
                ),
            ));
        }
        self.tower = Some(tower.clone());
        Ok(tower)
    }

    /// Whether it has its tower at hand.
    pub fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    /// The loaded encoder, taken out for the time of one job; give it back with [`Worker::give_back`].
    pub(crate) fn take_loaded(&mut self, tower: &Tower) -> Result<Loaded> {
        match self.loaded.take() {
            Some(loaded) => Ok(loaded),
            None => Ok(Loaded { encoder: tower.load(&self.device)?, limit: None }),
        }
    }

    pub(crate) fn give_back(&mut self, loaded: Loaded) {
        self.loaded = Some(loaded);
    }
}

/// Runs one envelope. Every driver (in-process, `scalingnote task`, Ballista) calls this and nothing else.
pub async fn execute(
    envelope: &Envelope,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<TaskReceipt> {
    let receipt = match envelope {
        Envelope::Encode(task) => encode::execute(task, worker, env).await.map(TaskReceipt::Encode),
        Envelope::Calibrate(task) => {
            calibrate::execute(task, env).await.map(TaskReceipt::Calibrate)
        }
        Envelope::Build(task) => {
            build::execute(task, env).await.map(|receipt| TaskReceipt::Build(Box::new(receipt)))
        }
    };
    receipt.context(|| format!("task {}", envelope.id()))
}

/// Reads a receipt; `None` where there is none.
pub(crate) async fn read_receipt<T: DeserializeOwned>(root: &Root, key: &str) -> Result<Option<T>> {
    let bytes = match root.get(key).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes).map(Some).or_error(ErrorKind::Corrupt, || {
        format!("receipt {key} cannot be read; delete it to have the task run again")
    })
}

/// Puts a receipt if absent and returns the one that counts: ours, or that of the attempt that was first.
pub(crate) async fn put_receipt<T: Serialize + DeserializeOwned>(
    root: &Root,
    key: &str,
    receipt: T,
) -> Result<T> {
    let json = serde_json::to_vec_pretty(&receipt).context(|| "writing a receipt as JSON")?;
    match root.put_if_absent(key, json.into()).await? {
        PutOutcome::Created => Ok(receipt),
        PutOutcome::AlreadyExists => read_receipt(root, key).await?.ok_or_else(|| {
            Error::new(ErrorKind::Transient, format!("receipt {key} vanished; run again"))
        }),
    }
}

/// A task that must be run before this step.
pub(crate) fn not_finished(task: &str) -> Error {
    Error::new(ErrorKind::Transient, format!("{task} has no receipt yet; run that task first"))
}
