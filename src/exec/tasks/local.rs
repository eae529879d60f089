//! The in-process driver: one worker a device takes encode tasks from a queue, and batches of the others' tasks when
//! the queue is empty; then shards are built side by side within the memory limit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::memory;
use super::receipts::Receipts;
use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::format::counted;
use crate::observe::{Running, Stage, Summing};
use crate::stage::{self, EncodeTask, Envelope, Plan, SharedWork, TaskEnv, TaskReceipt, Worker};
use crate::tower::Tower;

/// What is said of a worker that panicked.
const ENDED: &str = "a worker ended unexpectedly";

/// The workers of this process, one a device.
pub(crate) struct Workers(Vec<Worker>);

impl Workers {
    pub fn new(pipeline: &Pipeline, tower: Option<Tower>) -> Result<Self> {
        let devices = pipeline.encode.devices()?;
        Ok(Self(devices.into_iter().map(|d| Worker::new(d, tower.clone())).collect()))
    }

    /// The first device's worker; there is at least one by configuration.
    pub fn first(&mut self) -> &mut Worker {
        &mut self.0[0]
    }

    /// Runs every task of the plan. `receipts` holds what was finished even where an error stops the rest.
    pub async fn run(
        &mut self,
        plan: &Plan,
        pipeline: &Pipeline,
        attempts: u32,
        env: &TaskEnv,
        receipts: &mut Receipts,
    ) -> Result<()> {
        // A plan whose largest shard does not fit is refused before anything is encoded.
        let limit_mib = memory::limit_mib(pipeline.index.memory_limit_mib);
        plan.build.iter().try_for_each(|task| memory::refuse_too_large(task, limit_mib))?;
        let env = TaskEnv { reporter: Arc::new(Summing::new(env.reporter.clone())), ..env.clone() };
        if !plan.encode.is_empty() {
            self.encode(plan, attempts, &env, receipts).await?;
        }
        if let Some(task) = &plan.calibrate {
            execute(&Envelope::Calibrate(task.clone()), self.first(), attempts, &env).await?;
        }
        if let Some(task) = &plan.adapt {
            let task = Envelope::Adapt(task.clone());
            if let TaskReceipt::Adapt(receipt) =
                execute(&task, self.first(), attempts, &env).await?
            {
                receipts.adapt = Some(*receipt);
            }
        }
        if !plan.build.is_empty() {
            build(plan, attempts, &env, limit_mib, receipts).await?;
        }
        Ok(())
    }

    async fn encode(
        &mut self,
        plan: &Plan,
        attempts: u32,
        env: &TaskEnv,
        receipts: &mut Receipts,
    ) -> Result<()> {
        let texts = plan.encode.iter().map(|task| task.shard.texts_to_encode).sum();
        let tokens = plan.encode.iter().map(|task| task.shard.tokens_to_encode).sum();
        let stage = Running::begin(&*env.reporter, Stage::Encode, (texts, "texts"), tokens);
        let queue: Arc<Mutex<VecDeque<EncodeTask>>> =
            Arc::new(Mutex::new(plan.encode.iter().cloned().collect()));
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(SharedWork::default());
        let env = &TaskEnv { shared: Arc::clone(&shared), ..env.clone() };
        let mut running = JoinSet::new();
        for mut worker in std::mem::take(&mut self.0) {
            let (queue, stop, env) = (Arc::clone(&queue), Arc::clone(&stop), env.clone());
            let owner = shared.own();
            running.spawn(async move {
                let mut done = Vec::new();
                let mut outcome = loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(task) = next else { break Ok(()) };
                    if stop.load(Ordering::Acquire) {
                        break Ok(());
                    }
                    match execute(&Envelope::Encode(task), &mut worker, attempts, &env).await {
                        Ok(TaskReceipt::Encode(receipt)) => done.push(receipt),
                        Ok(_) => {}
                        Err(error) => {
                            stop.store(true, Ordering::Release);
                            break Err(error);
                        }
                    }
                };
                drop(owner);
                while outcome.is_ok()
                    && let Some(task) = env.shared.wanted(worker.is_loaded()).await
                {
                    outcome = stage::help(&task, &mut worker, &env).await;
                }
                (worker, done, outcome)
            });
        }
        let mut outcome = Ok(());
        while let Some(ended) = running.join_next().await {
            let (worker, done, result) = ended.context(|| ENDED)?;
            self.0.push(worker);
            receipts.encode.extend(done);
            outcome = outcome.and(result);
        }
        let [parts, texts, tokens, _] = env.kept.sums();
        let mut summary = format!("{}, {}", counted(texts, "text"), counted(tokens, "token"));
        if outcome.is_err() {
            summary = format!("stopped; {summary} kept in {}", counted(parts, "part"));
        }
        stage.end(summary);
        outcome
    }
}

/// The self-test, where it is asked for, and the drift of the tower, on one device before anything is encoded.
pub(crate) async fn check(
    plan: &Plan,
    self_test: bool,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<Option<(f64, usize)>> {
    if self_test {
        stage::self_test(plan, worker, env).await?;
    }
    stage::measure_drift(&plan.gates, &plan.encode, worker, env).await
}

/// One task, tried again where its failure may pass. Stopping is not a failure.
async fn execute(
    envelope: &Envelope,
    worker: &mut Worker,
    attempts: u32,
    env: &TaskEnv,
) -> Result<TaskReceipt> {
    let mut pause = Duration::from_secs(1);
    for attempt in 1.. {
        match stage::execute(envelope, worker, env).await {
            Err(error) if error.kind() == ErrorKind::Transient && attempt < attempts => {
                let next = attempt + 1;
                env.reporter.warn(format!("{error}; attempt {next} follows in {pause:?}"));
                env.cancel.pause(pause).await?;
                pause *= 4;
            }
            outcome => return outcome,
        }
    }
    Err(Error::internal("no attempt was made"))
}

async fn build(
    plan: &Plan,
    attempts: u32,
    env: &TaskEnv,
    limit_mib: u32,
    receipts: &mut Receipts,
) -> Result<()> {
    let shards = plan.build.len() as u64;
    let stage = Running::begin(&*env.reporter, Stage::Build, (shards, "shards"), 0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let side_by_side = Arc::new(Semaphore::new(threads));
    let free_mib = Arc::new(Semaphore::new(limit_mib as usize));
    let mut running = JoinSet::new();
    for task in plan.build.iter().cloned() {
        let (free_mib, side_by_side, env) =
            (Arc::clone(&free_mib), Arc::clone(&side_by_side), env.clone());
        running.spawn(async move {
            let needed = memory::needed_mib(&task).min(limit_mib);
            // Neither semaphore is ever closed.
            let _thread = side_by_side.acquire().await.map_err(closed)?;
            let _memory = free_mib.acquire_many(needed).await.map_err(closed)?;
            env.cancel.check()?;
            // A build encodes nothing: any device will do.
            let mut worker = Worker::new(crate::tower::DeviceSpec::Cpu { threads: 1 }, None);
            execute(&Envelope::Build(task), &mut worker, attempts, &env).await
        });
    }
    let mut outcome = Ok(());
    while let Some(ended) = running.join_next().await {
        match ended.context(|| ENDED)? {
            Ok(TaskReceipt::Build(receipt)) => receipts.build.push(*receipt),
            Ok(_) => {}
            Err(error) => {
                outcome = Err(error);
                running.abort_all();
                break;
            }
        }
    }
    receipts.build.sort_by_key(|receipt| receipt.shard.shard);
    let vectors: u64 = receipts.build.iter().map(|receipt| receipt.shard.vectors).sum();
    let shards = counted(receipts.build.len() as u64, "shard");
    stage.end(format!("{shards}, {}", counted(vectors, "vector")));
    outcome
}

fn closed(_: tokio::sync::AcquireError) -> Error {
    Error::internal("a semaphore was closed")
}
