//! Who runs tasks and with what: a tower on a device, the root, progress, cancellation.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::inputs::{Inputs, is_damage};
use super::located;
use super::plan::{RunSpec, ShardPlan};
use super::vectors::Places;
use super::windows::SharedWork;
use crate::error::{Error, Result, ResultExt, unless};
use crate::observe::Reporter;
use crate::snapshot::{self, Purged, Tombstones};
use crate::store::Root;
use crate::tower::{DeviceSpec, Encoder, Tower, TowerTokenizer};
use crate::types::Cancel;

/// What a worker binds an envelope to.
#[derive(Clone)]
pub struct TaskEnv {
    /// Where everything is stored.
    pub root: Root,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: Cancel,
    /// What encode tasks have stored for good so far, whether or not they finish.
    pub kept: Arc<Kept>,
    /// The encode tasks at work, whose batches idle workers take.
    pub shared: Arc<SharedWork>,
    /// What tasks have read and others may need.
    pub inputs: Arc<Inputs>,
    /// What was purged, as far as tasks have seen.
    pub tombstones: Arc<Tombstones>,
    /// Tasks whose receipt was there already.
    pub adopted: Arc<Adopted>,
}

impl TaskEnv {
    /// For the first task of a process: nothing is stored, shared or read yet.
    pub fn new(root: Root, reporter: Arc<dyn Reporter>, cancel: Cancel) -> Self {
        let (kept, shared, inputs) = (Arc::default(), Arc::default(), Arc::default());
        let (tombstones, adopted) = (Arc::default(), Arc::default());
        Self { root, reporter, cancel, kept, shared, inputs, tombstones, adopted }
    }

    /// Refuses work that was planned before a purge: asked before it begins, and after each of its writes. `written`
    /// are the keys of the last one, receipts first: they go again where `holds` finds a purged note in it.
    ///
    /// # Errors
    /// Conflict.
    pub(crate) async fn unless_purged(
        &self,
        spec: &RunSpec,
        written: &[&str],
        holds: impl FnOnce(&Purged) -> bool,
    ) -> Result<()> {
        let Some(purged) = self.tombstones.since(&self.root, spec.under()).await? else {
            return Ok(());
        };
        if holds(&purged) {
            for key in written {
                self.root.delete(key).await?;
            }
        }
        Err(snapshot::overtaken_by_purge(&format!("run {}", spec.run)))
    }

    /// Where the vectors of a shard's texts lay when it was planned. A parent that cannot be read is left out: the
    /// build says what is wrong with it.
    pub(crate) async fn stored(&self, shard: &ShardPlan) -> Result<Places> {
        let mut places = located::read(&self.root, shard.located.as_ref()).await?;
        if let Some(parent) = &shard.parent
            && let Some(ids) = unless(self.inputs.ids(&self.root, &parent.shard).await, is_damage)?
        {
            places.extend(parent.stored(&ids).map(|row| (row.text_hash, row.place.clone())));
        }
        Ok(places)
    }
}

/// Ids of tasks whose receipt was there already, so that nothing was done for them.
#[derive(Debug, Default)]
pub struct Adopted(Mutex<BTreeSet<String>>);

impl Adopted {
    pub(super) fn add(&self, task: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task.to_owned());
    }

    /// Their ids.
    pub fn ids(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Parts that are stored with their receipts: the next run does not encode their texts again.
#[derive(Debug, Default)]
pub struct Kept([AtomicU64; 4]);

impl Kept {
    pub(super) fn add(&self, texts: u64, tokens: u64, bytes: u64) {
        for (sum, more) in self.0.iter().zip([1, texts, tokens, bytes]) {
            sum.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Number of parts, their texts, their tokens (prompt included) and their bytes.
    pub fn sums(&self) -> [u64; 4] {
        self.0.each_ref().map(|sum| sum.load(Ordering::Relaxed))
    }
}

/// A loaded tower and what its device has shown to hold.
pub(crate) struct Loaded {
    pub encoder: Box<dyn Encoder>,
    /// Tokens of one batch at most; set once the device ran out of memory.
    pub limit: Option<u64>,
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
    /// changed under the same name are refused before a vector is made. What changes afterwards is refused when the
    /// weights are loaded, and a loaded tower reads no file.
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
            return Err(Error::input(format!(
                "the tower {} now makes space {}, but run {} was planned for space {}: \
                 the files changed under the same name; plan again",
                spec.tower.model,
                found.id()?,
                spec.run,
                spec.space_id
            )));
        }
        self.tower = Some(tower.clone());
        Ok(tower)
    }

    /// Whether its tower is loaded.
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

    /// Computes with the loaded encoder of `spec` on a thread of its own. `what` names the job where it panics.
    pub(crate) async fn compute<T: Send + 'static>(
        &mut self,
        spec: &RunSpec,
        env: &TaskEnv,
        what: &str,
        job: impl FnOnce(&mut Loaded, &TowerTokenizer) -> T + Send + 'static,
    ) -> Result<T> {
        let tower = self.tower(spec, env).await?;
        let mut loaded = self.take_loaded(&tower)?;
        let computing = tokio::task::spawn_blocking(move || {
            let outcome = job(&mut loaded, tower.tokenizer());
            (loaded, outcome)
        });
        let (loaded, outcome) = computing.await.context(|| format!("{what} ended unexpectedly"))?;
        self.give_back(loaded);
        Ok(outcome)
    }
}
