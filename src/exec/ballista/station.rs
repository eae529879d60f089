//! An executor's side of a task: one device, one task at a time, a status for each run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::book::{Began, Book, Failure, now};
use super::work::{CheckedReceipt, Order, PreparedReceipt, Work};
use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec::context::{RunContext, Session};
use crate::exec::tasks::{local, memory};
use crate::observe::{Event, Reporter, Stage};
use crate::snapshot;
use crate::stage::{self, Envelope, Plan, TaskEnv, Worker};
use crate::store::{Root, layout, receipt};
use crate::tower::{DeviceSpec, Tower};
use crate::types::Cancel;

/// How often an executor at work writes its status and checks whether its run is still in progress.
const BEAT_EVERY: Duration = Duration::from_secs(3);

/// Warnings that a book keeps.
const MOST_WARNINGS: usize = 100;

/// What an executor is, for all tasks.
pub(super) struct Station {
    name: String,
    device_name: String,
    /// The loaded tower; a task that holds it is running.
    worker: tokio::sync::Mutex<Worker>,
    root: Mutex<Option<(Order, Root)>>,
    ledger: Mutex<Option<Arc<Ledger>>>,
    reporter: Arc<dyn Reporter>,
    cancel: Cancel,
    runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Station").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Station {
    /// Works run on the runtime of the caller, whatever the cluster does with its own.
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
            ledger: Mutex::default(),
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
    pub async fn run(self: &Arc<Self>, order: &Order, work: Work) -> Result<()> {
        let (station, order) = (Arc::clone(self), order.clone());
        // On a thread of its own: planning is not a `Send` future.
        let doing = self.runtime.spawn_blocking(move || {
            let runtime = station.runtime.clone();
            runtime.block_on(async move { station.work(&order, work).await })
        });
        doing.await.context(|| "a task ended unexpectedly")?
    }

    async fn work(&self, order: &Order, work: Work) -> Result<()> {
        let mut worker = self.worker.lock().await;
        self.cancel.check()?;
        let cancel = self.cancel.child();
        let root = self.root(order)?.with_cancel(cancel.clone());
        let ledger = self.ledger(order, &root);
        current(&root, &order.run).await?;
        ledger.begin(work.id());
        ledger.write(&root).await?;
        // Ends with this future.
        let mut beating = JoinSet::new();
        let beats = beat(Arc::clone(&ledger), root.clone(), order.run.clone(), cancel.clone());
        beating.spawn_on(beats, &self.runtime);
        let reporter: Arc<dyn Reporter> =
            Arc::new(Counting { ledger: Arc::clone(&ledger), console: Arc::clone(&self.reporter) });
        let env = TaskEnv::new(root.clone(), reporter, cancel);
        let outcome = self.execute(order, &work, &mut worker, &env).await;
        beating.shutdown().await;
        ledger.end(work.id(), outcome.as_ref().err());
        let written = ledger.write(&root.with_cancel(Cancel::new())).await;
        let id = work.id();
        match &outcome {
            Ok(()) => self.reporter.info(format!("{id} is done")),
            Err(error) => self.reporter.warn(format!("{id}: {error}")),
        }
        outcome.and(written)
    }

    async fn execute(
        &self,
        order: &Order,
        work: &Work,
        worker: &mut Worker,
        env: &TaskEnv,
    ) -> Result<()> {
        match work {
            Work::Prepare { pipeline, base_dir, signed } => {
                let mut pipeline = pipeline.as_ref().clone();
                pipeline.base_dir.clone_from(base_dir);
                pipeline.find_signatures(signed, |name| std::env::var(name).ok())?;
                let tower = prepare(&order.run, pipeline, env).await?;
                if tower.is_some() && !worker.is_loaded() {
                    *worker = Worker::new(worker.device.clone(), tower);
                }
                Ok(())
            }
            Work::Check { plan, self_test } => {
                let check = async {
                    let plan = Plan::load(&env.root, plan).await?;
                    let drift = local::check(&plan, *self_test, worker, env).await?;
                    Ok(CheckedReceipt { drift })
                };
                receipt::once(&env.root, &layout::checked_receipt(plan), check).await.map(drop)
            }
            Work::Task { envelope } => {
                if let Envelope::Build(task) = envelope.as_ref() {
                    memory::refuse_too_large(task, memory::limit_mib(None))?;
                }
                stage::execute(envelope, worker, env).await.map(drop)
            }
        }
    }

    /// The root of an order, opened once.
    fn root(&self, order: &Order) -> Result<Root> {
        let mut opened = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, root)) = &*opened
            && (&of.root, &of.storage) == (&order.root, &order.storage)
        {
            return Ok(root.clone());
        }
        let root = Root::open_with(&order.root, &order.storage)?;
        *opened = Some((order.clone(), root.clone()));
        Ok(root)
    }

    /// The book of a run; a new run begins a new one.
    fn ledger(&self, order: &Order, root: &Root) -> Arc<Ledger> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match &*ledger {
            Some(own) if own.run == order.run && own.root == root.uri() => Arc::clone(own),
            _ => {
                let new = Arc::new(Ledger::new(self, order, root));
                *ledger = Some(Arc::clone(&new));
                new
            }
        }
    }
}

/// Plans under a run id of this attempt's own, and gives the tower that it planned with. The first attempt to put the
/// receipt counts.
async fn prepare(run: &str, pipeline: Pipeline, env: &TaskEnv) -> Result<Option<Tower>> {
    let ctx = RunContext {
        pipeline,
        root: env.root.clone(),
        reporter: Arc::clone(&env.reporter),
        cancel: env.cancel.clone(),
    };
    let session = Session::new(&ctx);
    let prepare = async {
        let attempt = format!("{run}-{:08x}", rand::random::<u32>());
        let planned = session.plan(&attempt).await?;
        planned.plan.store(&env.root).await?;
        Ok(PreparedReceipt {
            plan: attempt,
            texts: planned.texts,
            lengths: planned.lengths,
            seconds: planned.seconds,
        })
    };
    receipt::once(&env.root, &layout::prepared_receipt(run), prepare).await?;
    Ok(session.known_document())
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

async fn beat(ledger: Arc<Ledger>, root: Root, run: String, cancel: Cancel) {
    loop {
        tokio::time::sleep(BEAT_EVERY).await;
        match current(&root, &run).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                cancel.stop(ErrorKind::Conflict, over(&run));
                return;
            }
            Ok(()) => {
                if let Err(error) = ledger.write(&root).await {
                    tracing::warn!(%error, "the status of this executor could not be stored");
                }
            }
            // The store may answer the next time; if not, the task will meet that itself.
            Err(error) => tracing::warn!(%error, "whether the run is still in progress is unknown"),
        }
    }
}

/// An executor's book while it is written.
struct Ledger {
    run: String,
    root: String,
    number: AtomicU64,
    state: Mutex<(Book, Option<(Instant, bool)>)>,
}

impl Ledger {
    fn new(station: &Station, order: &Order, root: &Root) -> Self {
        let book = Book {
            executor: station.name.clone(),
            device: station.device_name.clone(),
            ..Book::default()
        };
        Self {
            run: order.run.clone(),
            root: root.uri().to_owned(),
            number: AtomicU64::new(0),
            state: Mutex::new((book, None)),
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
    fn until_now(state: &(Book, Option<(Instant, bool)>)) -> Book {
        let mut book = state.0.clone();
        if let Some((since, encodes)) = state.1 {
            let seconds = since.elapsed().as_secs_f64();
            book.busy_seconds += seconds;
            book.encode_seconds += if encodes { seconds } else { 0.0 };
        }
        book
    }

    async fn write(&self, root: &Root) -> Result<()> {
        let book = Self::until_now(&self.state.lock().unwrap_or_else(PoisonError::into_inner));
        let json = serde_json::to_vec(&book).context(|| "writing an executor's status as JSON")?;
        let number = self.number.fetch_add(1, Ordering::AcqRel) + 1;
        root.put(&layout::book(&self.run, &book.executor, number), json.into()).await?;
        if number > 1 {
            root.delete(&layout::book(&self.run, &book.executor, number - 1)).await?;
        }
        Ok(())
    }
}

/// Counts what the current task does, keeps its warnings for the driver, and shows people of this machine the rest.
struct Counting {
    ledger: Arc<Ledger>,
    console: Arc<dyn Reporter>,
}

impl Counting {
    fn book(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.ledger.state.lock().unwrap_or_else(PoisonError::into_inner).0);
    }
}

impl Reporter for Counting {
    fn event(&self, event: Event) {
        match event {
            Event::Progress { stage: Stage::Encode, done, tokens } => self.book(|book| {
                book.texts += done;
                book.tokens += tokens;
            }),
            Event::Warning { ref message } => {
                self.book(|book| {
                    if book.warnings.len() < MOST_WARNINGS {
                        book.warnings.push(message.clone());
                    }
                });
                self.console.event(event);
            }
            Event::Info { .. } => self.console.event(event),
            Event::Progress { .. }
            | Event::StageStarted { .. }
            | Event::StageFinished { .. }
            | Event::Executors { .. } => {}
        }
    }
}
