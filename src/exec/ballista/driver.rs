//! The driver: splits a run into tasks, has them executed, and reads the results from the root.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::job::{self, End, Watching};
use super::status::Statuses;
use super::task::{CheckedReceipt, ClusterTask, Notes, PreparedReceipt, ReadingReceipt, RunTarget};
use super::{MAX_TASKS, plan};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec::context::{ClusterOptions, RunContext};
use crate::exec::tasks::receipts::{Receipts, all_of};
use crate::observe::format::{counted, units};
use crate::observe::{Event, Reporter, Running, Stage};
use crate::snapshot;
use crate::stage::{self, Envelope, Plan, Planned, TaskEnv};
use crate::store::{Root, layout};
use crate::types::Cancel;

/// How often the statuses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a job that no executor works on is submitted, at most.
const SUBMISSIONS: u32 = 4;

/// Pause before a job is submitted again.
const PAUSE: Duration = Duration::from_secs(3);

/// Has the tasks of one run executed.
pub(in crate::exec) struct Driver {
    cluster: ClusterOptions,
    target: RunTarget,
    statuses: tokio::sync::Mutex<Statuses>,
}

impl Driver {
    /// For the run that holds the lease of the root.
    pub fn new(ctx: &RunContext, cluster: &ClusterOptions, run: &str) -> Self {
        Self {
            cluster: cluster.clone(),
            target: RunTarget {
                run: run.to_owned(),
                root: ctx.root.uri().to_owned(),
                storage: ctx.pipeline.storage.clone(),
            },
            statuses: tokio::sync::Mutex::default(),
        }
    }

    /// Has the corpus read and planned.
    ///
    /// # Errors
    /// What stopped it there; Transient where nobody does it.
    pub async fn plan(&self, ctx: &RunContext, reporter: &Arc<dyn Reporter>) -> Result<Planned> {
        let stage = Running::begin(&**reporter, Stage::Prepare, (0, "rows"), 0);
        let notes = Notes::of(&ctx.pipeline);
        let (root, run) = (&ctx.root, &self.target.run);
        let watch = Watch { reporter, cancel: &ctx.cancel, root, stage: None };
        self.execute("prepare", &[ClusterTask::Prepare { notes: notes.clone() }], &watch).await?;
        let reading: ReadingReceipt = receipt(root, &layout::reading_receipt(run)).await?;
        if let Some(shared) = reading.shares {
            self.execute("read", &shared.read(&notes), &watch).await?;
            self.execute("gather", &shared.gather(&notes), &watch).await?;
            let task = ClusterTask::Plan { notes, run: shared.run };
            self.execute("plan", &[task], &watch).await?;
        }
        let receipt: PreparedReceipt = receipt(root, &layout::prepared_receipt(run)).await?;
        let plan = Plan::load(root, &receipt.plan).await?;
        let parent = match plan.spec.parent {
            Some(number) => Some(snapshot::read(root, number).await?),
            None => None,
        };
        let notes: u64 = plan.shards.iter().map(|shard| shard.prepared.notes).sum();
        let texts: u64 = plan.shards.iter().map(|shard| shard.texts_to_encode).sum();
        let seconds = stage.end(format!(
            "{} in {}, {} to encode",
            counted(notes, "note"),
            counted(plan.shards.len() as u64, "shard"),
            counted(texts, "text")
        ));
        let (texts, lengths) = (receipt.texts, receipt.lengths);
        Ok(Planned { plan, parent, texts, lengths, sample: Vec::new(), seconds })
    }

    /// Has one executor check a stored plan: the least cosine to stored vectors and how many were compared.
    ///
    /// # Errors
    /// A failed self-test; what stopped it.
    pub async fn check(
        &self,
        plan: &Plan,
        self_test: bool,
        env: &TaskEnv,
    ) -> Result<Option<(f64, usize)>> {
        // There is nothing to check a tower for that will encode nothing.
        if plan.encode.is_empty() {
            return Ok(None);
        }
        let task = ClusterTask::Check { plan: plan.spec.run.clone(), self_test };
        self.execute("check", &[task], &Watch::of(env, None)).await?;
        let key = layout::checked_receipt(&plan.spec.run);
        Ok(receipt::<CheckedReceipt>(&env.root, &key).await?.drift)
    }

    /// Has every task of a plan executed, stage after stage. `receipts` holds what was finished even where an error
    /// stops the rest.
    ///
    /// # Errors
    /// What stopped a task; Transient where no executor works.
    pub async fn run(&self, plan: &Plan, env: &TaskEnv, receipts: &mut Receipts) -> Result<()> {
        if !plan.encode.is_empty() {
            let mut tasks: Vec<_> = plan.encode.iter().collect();
            // The longest first, so that the end is not one executor at a long task.
            tasks.sort_by_key(|task| std::cmp::Reverse(task.shard.tokens_to_encode));
            let tasks: Vec<_> = tasks.into_iter().cloned().map(Envelope::Encode).collect();
            let total = plan.encode.iter().map(|task| task.shard.texts_to_encode).sum();
            let tokens = plan.encode.iter().map(|task| task.shard.tokens_to_encode).sum();
            let all = (total, "texts", tokens);
            let outcome = self.stage(Stage::Encode, tasks, all, env).await;
            let reads = plan.encode.iter().map(|task| stage::encode_receipt(task, &env.root));
            keep(&mut receipts.encode, all_of(reads.collect()).await, outcome)?;
        }
        if let Some(task) = &plan.calibrate {
            let one = [cluster_task(Envelope::Calibrate(task.clone()))];
            self.execute("calibrate", &one, &Watch::of(env, None)).await?;
        }
        if let Some(task) = &plan.adapt {
            let one = [cluster_task(Envelope::Adapt(task.clone()))];
            self.execute("adapt", &one, &Watch::of(env, None)).await?;
            receipts.adapt = Some(stage::adapt_receipt(task, &env.root).await?);
        }
        if !plan.build.is_empty() {
            let tasks: Vec<_> = plan.build.iter().cloned().map(Envelope::Build).collect();
            let total = tasks.len() as u64;
            let outcome = self.stage(Stage::Build, tasks, (total, "shards", 0), env).await;
            let reads = plan.build.iter().map(|task| stage::build_receipt(task, &env.root));
            keep(&mut receipts.build, all_of(reads.collect()).await, outcome)?;
        }
        Ok(())
    }

    async fn stage(
        &self,
        stage: Stage,
        envelopes: Vec<Envelope>,
        (total, unit, tokens): (u64, &'static str, u64),
        env: &TaskEnv,
    ) -> Result<()> {
        let running = Running::begin(&*env.reporter, stage, (total, unit), tokens);
        let tasks: Vec<ClusterTask> = envelopes.into_iter().map(cluster_task).collect();
        let before = {
            let statuses = self.statuses.lock().await;
            (statuses.encoded(), statuses.finished())
        };
        let watch = Watch::of(env, Some((stage, before.0, before.1)));
        let outcome = self.execute(stage.name(), &tasks, &watch).await;
        let statuses = self.statuses.lock().await;
        let (texts, tokens) = statuses.encoded();
        let (texts, tokens) = (texts - before.0.0, tokens - before.0.1);
        let mut summary = match stage {
            Stage::Encode => format!("{}, {}", counted(texts, "text"), counted(tokens, "token")),
            _ => units(total, unit),
        };
        if outcome.is_err() {
            summary = format!("stopped; {summary}");
        }
        let executors = counted(statuses.progress().len() as u64, "executor");
        running.end(format!("{summary} on {executors}"));
        outcome
    }

    /// Has tasks executed, in any order.
    async fn execute(&self, what: &str, tasks: &[ClusterTask], watch: &Watch<'_>) -> Result<()> {
        for tasks in tasks.chunks(MAX_TASKS) {
            self.job(what, tasks, watch).await?;
        }
        Ok(())
    }

    /// Has the tasks of one job executed, however often it has to be submitted.
    async fn job(&self, what: &str, tasks: &[ClusterTask], watch: &Watch<'_>) -> Result<()> {
        let name = format!("{}-{what}", self.target.run);
        for submission in 1.. {
            watch.cancel.check()?;
            let known = self.statuses.lock().await.failures();
            let mut look = Look { driver: self, watch, seen: Instant::now(), next: Instant::now() };
            let plan = plan::job(&self.target, tasks)?;
            let end = job::run(&self.cluster.scheduler, &name, plan, &mut look).await?;
            look.now().await?;
            let lost = match end {
                End::Done => return Ok(()),
                End::Failed(said) => {
                    let failure = self.statuses.lock().await.failure(&known);
                    return Err(failure.unwrap_or_else(|| {
                        Error::internal(format!("job {what} failed on the cluster: {said}"))
                    }));
                }
                End::Lost(why) => why,
            };
            if submission >= SUBMISSIONS {
                return Err(Error::transient(format!(
                    "job {what} was submitted {submission} times without success: {lost}; what was finished is kept"
                )));
            }
            watch.reporter.warn(format!("{lost}; submitting job {what} again"));
            watch.cancel.pause(PAUSE).await?;
        }
        Err(Error::internal("no job was submitted"))
    }
}

fn cluster_task(envelope: Envelope) -> ClusterTask {
    ClusterTask::Task { envelope: Box::new(envelope) }
}

/// Keeps the receipts that are there: all of them must be there where there was no error.
fn keep<T>(into: &mut Vec<T>, found: Vec<Result<T>>, outcome: Result<()>) -> Result<()> {
    for receipt in found {
        match receipt {
            Ok(receipt) => into.push(receipt),
            Err(missing) if outcome.is_ok() => return Err(missing),
            Err(_) => {}
        }
    }
    outcome
}

async fn receipt<T: DeserializeOwned>(root: &Root, key: &str) -> Result<T> {
    let bytes = root.get(key).await.context(|| "the work is done, but has no receipt")?;
    serde_json::from_slice(&bytes)
        .or_error(ErrorKind::Corrupt, || format!("receipt {key} cannot be read; run again"))
}

/// What is looked for while a job runs.
struct Watch<'a> {
    reporter: &'a Arc<dyn Reporter>,
    cancel: &'a Cancel,
    root: &'a Root,
    /// The stage whose progress is shown, and what had been encoded and finished before it.
    stage: Option<(Stage, (u64, u64), u64)>,
}

impl<'a> Watch<'a> {
    fn of(env: &'a TaskEnv, stage: Option<(Stage, (u64, u64), u64)>) -> Self {
        Self { reporter: &env.reporter, cancel: &env.cancel, root: &env.root, stage }
    }
}

/// Reads the statuses periodically.
struct Look<'a> {
    driver: &'a Driver,
    watch: &'a Watch<'a>,
    /// When an executor was last heard from.
    seen: Instant,
    next: Instant,
}

impl Watching for Look<'_> {
    async fn look(&mut self) -> Result<Option<String>> {
        self.watch.cancel.check()?;
        if Instant::now() < self.next {
            return Ok(None);
        }
        self.next = Instant::now() + LOOK_EVERY;
        match self.now().await {
            Ok(()) => {}
            // The next look may succeed, and executors have their own way to the root.
            Err(error) if error.kind() == ErrorKind::Transient => {
                tracing::warn!(%error, "the status of the executors could not be read");
            }
            Err(error) => return Err(error),
        }
        let patience = self.driver.cluster.patience;
        let silent = self.seen.elapsed() > patience;
        Ok(silent.then(|| format!("no executor was heard from for {} s", patience.as_secs())))
    }
}

impl Look<'_> {
    async fn now(&mut self) -> Result<()> {
        let mut statuses = self.driver.statuses.lock().await;
        if !statuses.look(self.watch.root, &self.driver.target.run).await? {
            return Ok(());
        }
        self.seen = Instant::now();
        for message in statuses.take_warnings() {
            self.watch.reporter.warn(message);
        }
        let ((texts, tokens), finished) = (statuses.encoded(), statuses.finished());
        if let Some((stage, encoded, finished_before)) = self.watch.stage {
            let (done, tokens) = match stage {
                Stage::Encode => {
                    (texts.saturating_sub(encoded.0), tokens.saturating_sub(encoded.1))
                }
                _ => (finished.saturating_sub(finished_before), 0),
            };
            self.watch.reporter.event(Event::Progress { stage, done, tokens });
        }
        self.watch.reporter.event(Event::Executors { executors: statuses.progress() });
        Ok(())
    }
}
