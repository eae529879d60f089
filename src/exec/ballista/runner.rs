//! An executor's side of a task: one device, one task at a time, a status for each run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::status::{Began, Failure, Status, now};
use super::task::{
    CheckedReceipt, ClusterTask, Notes, PreparedReceipt, ReadingReceipt, RunTarget, SharedReading,
};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec::context::{RunContext, Session};
use crate::exec::tasks::{local, memory};
use crate::observe::{Event, Reporter, Stage};
use crate::snapshot;
use crate::stage::{self, Envelope, Plan, SharesPlan, SharesPlanned, TaskEnv, Worker};
use crate::store::{Root, layout, receipt};
use crate::tower::DeviceSpec;
use crate::types::Cancel;

/// How often an executor at work writes its status and checks whether its run is still in progress.
const BEAT_EVERY: Duration = Duration::from_secs(3);

/// Warnings that a status keeps.
const MOST_WARNINGS: usize = 100;

/// What an executor is, for all tasks.
pub(super) struct Runner {
    name: String,
    device_name: String,
    /// The loaded tower; a task that holds it is running.
    worker: tokio::sync::Mutex<Worker>,
    root: Mutex<Option<(RunTarget, Root)>>,
    status: Mutex<Option<Arc<StatusWriter>>>,
    reporter: Arc<dyn Reporter>,
    cancel: Cancel,
    runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Runner {
    /// Tasks run on the runtime of the caller, whatever the cluster does with its own.
    pub fn new(
        name: String,
        device: DeviceSpec,
        device_name: String,
        reporter: Arc<dyn Reporter>,
        cancel: Cancel,
    ) -> Self {
        Self {
            name,
            worker: tokio::sync::Mutex::new(Worker::new(device, None)),
            device_name,
            root: Mutex::default(),
            status: Mutex::default(),
            reporter,
            cancel,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until no task is running.
    pub async fn idle(&self) {
        drop(self.worker.lock().await);
    }

    /// Executes a task to its end, even where nobody waits for it any more.
    ///
    /// # Errors
    /// What stopped the task.
    pub async fn run(self: &Arc<Self>, target: &RunTarget, task: ClusterTask) -> Result<()> {
        let (runner, target) = (Arc::clone(self), target.clone());
        // On a thread of its own: planning is not a `Send` future.
        let doing = self.runtime.spawn_blocking(move || {
            let runtime = runner.runtime.clone();
            runtime.block_on(async move { runner.attempt(&target, task).await })
        });
        doing.await.context(|| "a task ended unexpectedly")?
    }

    async fn attempt(&self, target: &RunTarget, task: ClusterTask) -> Result<()> {
        let mut worker = self.worker.lock().await;
        self.cancel.check()?;
        let cancel = self.cancel.child();
        let root = self.root(target)?.with_cancel(cancel.clone());
        let status = self.status(target, &root);
        current(&root, &target.run).await?;
        let id = task.id();
        status.begin(&id);
        status.write(&root).await?;
        // Ends with this future.
        let mut beating = JoinSet::new();
        let beats = beat(Arc::clone(&status), root.clone(), target.run.clone(), cancel.clone());
        beating.spawn_on(beats, &self.runtime);
        let reporter: Arc<dyn Reporter> =
            Arc::new(Counting { status: Arc::clone(&status), console: Arc::clone(&self.reporter) });
        let env = TaskEnv::new(root.clone(), reporter, cancel);
        let outcome = self.execute(target, &task, &mut worker, &env).await;
        beating.shutdown().await;
        status.end(&id, outcome.as_ref().err());
        let written = status.write(&root.with_cancel(Cancel::new())).await;
        match &outcome {
            Ok(()) => self.reporter.info(format!("{id} is done")),
            Err(error) => self.reporter.warn(format!("{id}: {error}")),
        }
        outcome.and(written)
    }

    async fn execute(
        &self,
        target: &RunTarget,
        task: &ClusterTask,
        worker: &mut Worker,
        env: &TaskEnv,
    ) -> Result<()> {
        match task {
            ClusterTask::Prepare { notes } => {
                let session = session(notes, env)?;
                prepare(&target.run, &session, env).await?;
                let tower = session.known_document();
                if tower.is_some() && !worker.is_loaded() {
                    *worker = Worker::new(worker.device.clone(), tower);
                }
                Ok(())
            }
            ClusterTask::Read { notes, run, shares } => {
                let shares: Vec<u32> = shares.clone().collect();
                session(notes, env)?.read(&SharesPlan::load(&env.root, run).await?, &shares).await
            }
            ClusterTask::Gather { notes, run, shards } => {
                let shards: Vec<u32> = shards.clone().collect();
                session(notes, env)?.gather(&SharesPlan::load(&env.root, run).await?, &shards).await
            }
            ClusterTask::Plan { notes, run } => {
                let session = session(notes, env)?;
                plan_gathered(&target.run, run, &session, env).await
            }
            ClusterTask::Check { plan, self_test } => {
                let check = async {
                    let plan = Plan::load(&env.root, plan).await?;
                    let drift = local::check(&plan, *self_test, worker, env).await?;
                    Ok(CheckedReceipt { drift })
                };
                receipt::once(&env.root, &layout::checked_receipt(plan), check).await.map(drop)
            }
            ClusterTask::Task { envelope } => {
                if let Envelope::Build(task) = envelope.as_ref() {
                    memory::refuse_too_large(task, memory::limit_mib(None))?;
                }
                stage::execute(envelope, worker, env).await.map(drop)
            }
        }
    }

    /// The root of a target, opened once.
    fn root(&self, target: &RunTarget) -> Result<Root> {
        let mut opened = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, root)) = &*opened
            && (&of.root, &of.storage) == (&target.root, &target.storage)
        {
            return Ok(root.clone());
        }
        let root = Root::open_with(&target.root, &target.storage)?;
        *opened = Some((target.clone(), root.clone()));
        Ok(root)
    }

    /// The status of a run; a new run begins a new one.
    fn status(&self, target: &RunTarget, root: &Root) -> Arc<StatusWriter> {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match &*status {
            Some(own) if own.run == target.run && own.root == root.uri() => Arc::clone(own),
            _ => {
                let new = Arc::new(StatusWriter::new(self, target, root));
                *status = Some(Arc::clone(&new));
                new
            }
        }
    }
}

fn session(notes: &Notes, env: &TaskEnv) -> Result<Session> {
    Ok(Session::new(&RunContext {
        pipeline: notes.pipeline()?,
        root: env.root.clone(),
        reporter: Arc::clone(&env.reporter),
        cancel: env.cancel.clone(),
    }))
}

/// Plans how the corpus is read, and, where one task reads it, all that follows: under a run id of this attempt's own. The
/// first attempt to put a receipt counts.
async fn prepare(run: &str, session: &Session, env: &TaskEnv) -> Result<()> {
    let attempt = format!("{run}-{:08x}", rand::random::<u32>());
    let reading = async {
        let shares = match session.shares(&attempt).await? {
            SharesPlanned::Shares(plan) => Some(SharedReading::of(&plan)),
            SharesPlanned::One(_) => None,
        };
        Ok(ReadingReceipt { shares })
    };
    let reading = receipt::once(&env.root, &layout::reading_receipt(run), reading).await?;
    if reading.shares.is_some() {
        return Ok(());
    }
    let prepare = async {
        let planned = session.plan(&attempt).await?;
        planned.plan.store(&env.root).await?;
        Ok(PreparedReceipt::of(attempt.clone(), &planned))
    };
    receipt::once(&env.root, &layout::prepared_receipt(run), prepare).await.map(drop)
}

/// Plans with what was gathered for the shares of `read`. Attempts have one plan: the first one that is stored.
async fn plan_gathered(run: &str, read: &str, session: &Session, env: &TaskEnv) -> Result<()> {
    let shares = SharesPlan::load(&env.root, read).await?;
    let prepare = async {
        let planned = session.plan_gathered(&shares).await?;
        let receipt = PreparedReceipt::of(read.to_owned(), &planned);
        planned.plan.store_once(&env.root).await.map(|_| receipt)
    };
    receipt::once(&env.root, &layout::prepared_receipt(run), prepare).await?;
    shares.clear(&session.notes(read, None)).await
}

/// Refuses to work for a run that is over: its driver died and another run took over, or it ended.
async fn current(root: &Root, run: &str) -> Result<()> {
    if snapshot::is_current_run(root, run).await? {
        return Ok(());
    }
    Err(Error::conflict(over(run)))
}

fn over(run: &str) -> String {
    format!("run {run} is over; what was finished is kept")
}

async fn beat(status: Arc<StatusWriter>, root: Root, run: String, cancel: Cancel) {
    loop {
        tokio::time::sleep(BEAT_EVERY).await;
        match current(&root, &run).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                cancel.stop(ErrorKind::Conflict, over(&run));
                return;
            }
            Ok(()) => {
                if let Err(error) = status.write(&root).await {
                    tracing::warn!(%error, "the status of this executor could not be stored");
                }
            }
            // The store may answer the next time; if not, the task will meet that itself.
            Err(error) => tracing::warn!(%error, "whether the run is still in progress is unknown"),
        }
    }
}

/// An executor's status while it is written.
struct StatusWriter {
    run: String,
    root: String,
    number: AtomicU64,
    state: Mutex<(Status, Option<(Instant, bool)>)>,
}

impl StatusWriter {
    fn new(runner: &Runner, target: &RunTarget, root: &Root) -> Self {
        let status = Status {
            executor: runner.name.clone(),
            device: runner.device_name.clone(),
            ..Status::default()
        };
        Self {
            run: target.run.clone(),
            root: root.uri().to_owned(),
            number: AtomicU64::new(0),
            state: Mutex::new((status, None)),
        }
    }

    fn begin(&self, task: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.began.push(Began { task: task.to_owned(), at: now() });
        state.0.task = Some(task.to_owned());
        state.1 = Some((Instant::now(), task.starts_with("encode-")));
    }

    fn end(&self, task: &str, error: Option<&Error>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (Self::until_now(&state), None);
        state.0.task = None;
        match error {
            None => state.0.finished += 1,
            // Somebody stops this executor: that is not a failure of the task.
            Some(error) if error.kind() == ErrorKind::Cancelled => {}
            Some(error) => state.0.failure = Some(Failure::new(task, error)),
        }
    }

    /// The status, with the time of the current task.
    fn until_now(state: &(Status, Option<(Instant, bool)>)) -> Status {
        let mut status = state.0.clone();
        if let Some((since, encodes)) = state.1 {
            let seconds = since.elapsed().as_secs_f64();
            status.busy_seconds += seconds;
            status.encode_seconds += if encodes { seconds } else { 0.0 };
        }
        status
    }

    async fn write(&self, root: &Root) -> Result<()> {
        let status = Self::until_now(&self.state.lock().unwrap_or_else(PoisonError::into_inner));
        let json =
            serde_json::to_vec(&status).context(|| "writing an executor's status as JSON")?;
        let number = self.number.fetch_add(1, Ordering::AcqRel) + 1;
        root.put(&layout::executor_status(&self.run, &status.executor, number), json.into())
            .await?;
        if number > 1 {
            root.delete(&layout::executor_status(&self.run, &status.executor, number - 1)).await?;
        }
        Ok(())
    }
}

/// Counts what the current task does, keeps its warnings for the driver, and shows people of this machine the rest.
struct Counting {
    status: Arc<StatusWriter>,
    console: Arc<dyn Reporter>,
}

impl Counting {
    fn status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.state.lock().unwrap_or_else(PoisonError::into_inner).0);
    }
}

impl Reporter for Counting {
    fn event(&self, event: Event) {
        match event {
            Event::Progress { stage: Stage::Encode, done, tokens } => self.status(|status| {
                status.texts += done;
                status.tokens += tokens;
            }),
            Event::Lost { stage: Stage::Encode, done, tokens } => self.status(|status| {
                status.texts = status.texts.saturating_sub(done);
                status.tokens = status.tokens.saturating_sub(tokens);
            }),
            Event::Warning { ref message } => {
                self.status(|status| {
                    if status.warnings.len() < MOST_WARNINGS {
                        status.warnings.push(message.clone());
                    }
                });
                self.console.event(event);
            }
            Event::Info { .. } => self.console.event(event),
            Event::Progress { .. }
            | Event::Lost { .. }
            | Event::StageStarted { .. }
            | Event::Limited { .. }
            | Event::StageFinished { .. }
            | Event::Executors { .. } => {}
        }
    }
}
