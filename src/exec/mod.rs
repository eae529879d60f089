//! Drivers: they decide where and in which order envelopes run, never what a task does.
//!
//! [`run`] is the driver: one worker for each device of this process, or the executors of a cluster
//! ([`RunOptions::cluster`]). A scheduler that owns the order (Airflow, Kubernetes) calls
//! [`plan_brief`], [`execute_share`] or [`execute_task`] for its tasks, and [`publish_plan`] at last.

mod backfill;
#[cfg(feature = "cluster")]
mod ballista;
mod cluster;
mod fleet;
mod lease;
mod local;
mod memory;
mod metrics;
mod purge;
mod query_towers;
mod report;
mod run_id;
mod share;
mod summary;
mod texts;

use std::sync::Arc;
use std::time::Duration;

use crate::config::Pipeline;
use crate::corpus::PrepareOutcome;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::{Event, Reporter, Stage, Tee, Timeline};
use crate::snapshot::{self, GateOutcome, RunLease};
use crate::stage::{
    self, BuildReceipt, EncodeReceipt, NewestSnapshot, Outcome, Plan, PlanBrief, PlanRequest,
    PlanSummary, Planned, PublishRequest, Published, RunReport, TaskEnv, Worker,
};
use crate::store::{Root, layout};
use crate::tower::Tower;
use crate::types::Cancel;

#[cfg(feature = "cluster")]
pub use self::ballista::{ExecutorOptions, Scheduler, SchedulerOptions, run_executor};
use backfill::Course;
#[cfg(not(feature = "cluster"))]
pub use cluster::not_built;
pub use cluster::{ClusterOptions, SchedulerAddress};
use fleet::Fleet;
pub use metrics::write_metrics;
pub use purge::purge;
pub use query_towers::check_query_tower;
use query_towers::{probe_query_tower, query_towers};
pub use run_id::new_run_id;
pub use share::{Share, ShareDone, TaskStage, execute_share, execute_task};
pub use texts::encode_texts;

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

/// What the tasks of a run wrote.
#[derive(Default)]
pub(crate) struct Receipts {
    pub encode: Vec<EncodeReceipt>,
    pub build: Vec<BuildReceipt>,
}

impl RunContext {
    fn env(&self, reporter: &Arc<dyn Reporter>) -> TaskEnv {
        TaskEnv {
            root: self.root.clone(),
            reporter: Arc::clone(reporter),
            cancel: self.cancel.clone(),
            kept: Arc::default(),
            shared: Arc::default(),
            inputs: Arc::default(),
        }
    }

    async fn plan(&self, run: &str, reporter: &Arc<dyn Reporter>) -> Result<(Planned, Tower)> {
        let pipeline = &self.pipeline;
        let tower = Tower::resolve(&pipeline.tower, &pipeline.base_dir, reporter).await?;
        // A query tower of its own that could not be admitted in the end is refused before the work.
        if pipeline.query.tower.is_some() {
            check_query_tower(pipeline, reporter).await?;
        }
        let planned = stage::plan(self.plan_request(run, &tower, None, reporter)).await?;
        Ok((planned, tower))
    }

    fn plan_request<'a>(
        &'a self,
        run: &'a str,
        tower: &'a Tower,
        prepared: Option<&'a PrepareOutcome>,
        reporter: &Arc<dyn Reporter>,
    ) -> PlanRequest<'a> {
        let pipeline = &self.pipeline;
        PlanRequest {
            corpus: &pipeline.corpus,
            storage: &pipeline.storage,
            base_dir: &pipeline.base_dir,
            tower_options: &pipeline.tower,
            tower,
            chunking: pipeline.chunking,
            encode: &pipeline.encode,
            build: &pipeline.index,
            gates: &pipeline.gates,
            prepared,
            keep_texts: pipeline.next.is_some(),
            root: &self.root,
            run,
            reporter: Arc::clone(reporter),
            cancel: self.cancel.clone(),
        }
    }
}

/// prepare -> encode -> build -> publish in this process. The report also lies under `runs/<run id>/`, whatever
/// the outcome.
///
/// # Errors
/// Busy where another run of the root is going on. Else whatever stopped the run; what was finished is kept. A refused
/// gate and a lost race are outcomes of the report, not errors.
pub async fn run(ctx: &RunContext, options: &RunOptions) -> Result<RunReport> {
    let mut report = RunReport::default();
    run_into(ctx, options, &mut report).await.map(|()| report)
}

/// [`run`], for callers that want the report of a run that fails, too: `report` is replaced by what is known.
///
/// # Errors
/// As [`run`].
pub async fn run_into(
    ctx: &RunContext,
    options: &RunOptions,
    report: &mut RunReport,
) -> Result<()> {
    #[cfg(not(feature = "cluster"))]
    if options.cluster.is_some() {
        return Err(not_built());
    }
    let run = new_run_id();
    // A plan is for other processes to execute: nobody has to be alone for it.
    if options.only_plan {
        return leased(ctx, options, &run, None, report).await;
    }
    let lease = lease::take(ctx, &run, options.wait).await?;
    let alive = lease::Heart::start(lease, ctx.cancel.child());
    let ctx = RunContext { cancel: alive.cancel.clone(), ..ctx.clone() };
    let outcome = leased(&ctx, options, &run, Some(&alive.lease), report).await;
    alive.stop().await;
    outcome
}

async fn leased(
    ctx: &RunContext,
    options: &RunOptions,
    run: &str,
    lease: Option<&RunLease>,
    report: &mut RunReport,
) -> Result<()> {
    let timeline = Arc::new(Timeline::new());
    let reporter: Arc<dyn Reporter> =
        Arc::new(Tee(vec![Arc::clone(&ctx.reporter), Arc::clone(&timeline) as Arc<dyn Reporter>]));
    *report = report::begin(ctx, run);
    let finished = drive(ctx, options, run, lease, &reporter, report).await;
    report::finish(report, &timeline);
    if let Err(error) = &finished {
        report.warnings.push(error.to_string());
        // What was published before the error stands.
        if error.kind() == ErrorKind::GateRefused {
            report.outcome = Outcome::GateRefused;
        }
    }
    let stored = match report.outcome {
        // The report is that of the run whose plan this is, once its tasks are done.
        Outcome::Planned => Ok(()),
        _ => report::store(&ctx.root, report).await,
    };
    match finished {
        Ok(()) => stored.context(|| match report.outcome {
            Outcome::Published { snapshot } => {
                format!(
                    "snapshot {snapshot} is published, but the run's report could not be stored"
                )
            }
            _ => "the run's report could not be stored".to_owned(),
        })?,
        Err(error) if error.kind() == ErrorKind::GateRefused => {
            ctx.reporter.event(Event::Warning { message: error.to_string() });
        }
        // The cause of the failure matters more than a report that could not be stored.
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The day, and the night after it where a tower is to take over.
async fn drive(
    ctx: &RunContext,
    options: &RunOptions,
    run: &str,
    lease: Option<&RunLease>,
    reporter: &Arc<dyn Reporter>,
    report: &mut RunReport,
) -> Result<()> {
    crate::snapshot::check_store(&ctx.root).await?;
    let (live, next) = match backfill::course(ctx, reporter).await? {
        Course::Plain => (None, None),
        Course::Fill(next) => (None, Some(next)),
        Course::Live { ctx: live, notice } => {
            report.config = report::begin(&live, run).config;
            reporter.event(Event::Warning { message: notice });
            (Some(live), None)
        }
    };
    let ctx = live.as_deref().unwrap_or(ctx);
    let plan = day(ctx, options, run, lease, reporter, report).await?;
    match next {
        Some(next) if !options.no_publish => {
            backfill::night(&next, &plan, options, report).await?;
        }
        _ => {}
    }
    if plan.tasks() == 0 && report.outcome.is_nothing() {
        // Nothing was done with the prepared text that is of use later: it need not lie around until retention.
        discard_prepared(&ctx.root, &plan.spec.run).await?;
    }
    Ok(())
}

/// prepare -> encode -> build -> publish with the tower of the context.
async fn day(
    ctx: &RunContext,
    options: &RunOptions,
    run: &str,
    lease: Option<&RunLease>,
    reporter: &Arc<dyn Reporter>,
    report: &mut RunReport,
) -> Result<Plan> {
    if options.only_plan {
        let (planned, _) = ctx.plan(run, reporter).await?;
        report::planned(report, &planned);
        planned.plan.store(&ctx.root).await?;
        report.outcome = Outcome::Planned;
        return Ok(planned.plan);
    }
    let (planned, mut fleet) = Fleet::plan(ctx, options, run, reporter).await?;
    report::planned(report, &planned);
    let plan = planned.plan;
    if let Some(message) = summary::truncated(&plan) {
        reporter.event(Event::Warning { message });
    }
    if plan.tasks() > 0 {
        fleet.store(&plan, ctx).await?;
    }
    let env = ctx.env(reporter);
    let drift = fleet.check(&plan, ctx.pipeline.encode.self_test, &env).await?;
    let overridden = options.overrides.iter().any(|(gate, _)| gate == "drift");
    stage::refuse_drift(drift, &plan.gates, overridden)?;
    let mut receipts = Receipts::default();
    let outcome = fleet.run(&plan, ctx, options.attempts, &env, &mut receipts).await;
    report::executed(report, &receipts);
    if outcome.is_err() {
        report::interrupted(report, &env.kept);
    }
    outcome?;
    if options.no_publish {
        report.outcome = Outcome::NotPublished;
        return Ok(plan);
    }
    let started = std::time::Instant::now();
    let (stage, unit) = (Stage::Publish, "snapshots");
    reporter.event(Event::StageStarted { stage, total: 0, unit, tokens: 0 });
    if let Some(lease) = lease {
        lease.check().await?;
    }
    publish(ctx, &plan, &receipts.build, drift, options, report).await?;
    reporter.event(Event::StageFinished {
        stage: Stage::Publish,
        seconds: started.elapsed().as_secs_f64(),
        summary: report.outcome.to_string(),
    });
    Ok(plan)
}

async fn publish(
    ctx: &RunContext,
    plan: &Plan,
    receipts: &[BuildReceipt],
    drift: Option<(f64, usize)>,
    options: &RunOptions,
    report: &mut RunReport,
) -> Result<()> {
    let gates = &mut report.gates;
    let published = publish_content(ctx, plan, receipts, drift, options, gates).await?;
    report.recall = published.recall;
    report.newest = Some(NewestSnapshot::of(&published.manifest));
    let snapshot = published.manifest.number;
    report.outcome = match published.is_new {
        true => Outcome::Published { snapshot },
        false => Outcome::NothingToDo { snapshot: Some(snapshot) },
    };
    Ok(())
}

async fn publish_content(
    ctx: &RunContext,
    plan: &Plan,
    receipts: &[BuildReceipt],
    drift: Option<(f64, usize)>,
    options: &RunOptions,
    judged: &mut Vec<GateOutcome>,
) -> Result<Published> {
    stage::publish(PublishRequest {
        plan,
        receipts,
        query_towers: query_towers(ctx).await?,
        drift,
        overrides: &options.overrides,
        root: &ctx.root,
        judged,
    })
    .await
}

async fn discard_prepared(root: &Root, run: &str) -> Result<()> {
    for file in root.list(&layout::prepared_dir(run)).await? {
        root.delete(&file.key).await?;
    }
    Ok(())
}

/// What a run would do: exact counts, and times from a short calibration on the first device. Nothing is encoded
/// for keeps; the plan is stored so that its tasks can be executed elsewhere.
pub async fn plan(ctx: &RunContext) -> Result<PlanSummary> {
    let run = new_run_id();
    let (live, next) = match backfill::course(ctx, &ctx.reporter).await? {
        Course::Plain => (None, None),
        Course::Fill(next) => (None, Some(next)),
        Course::Live { ctx, notice } => (Some((ctx, notice)), None),
    };
    let ctx = live.as_ref().map_or(ctx, |(live, _)| live);
    let (planned, tower) = ctx.plan(&run, &ctx.reporter).await?;
    let mut workers = local::Workers::new(&ctx.pipeline, Some(tower))?;
    let env = ctx.env(&ctx.reporter);
    let speed = summary::calibrate_speed(&planned.plan, workers.first(), &env).await?;
    planned.plan.store(&ctx.root).await?;
    // One loaded tower at a time.
    drop(workers);
    let mut summary = summary::summarise(&planned, &ctx.pipeline, speed)?;
    summary.warnings.extend(live.as_ref().map(|(_, notice)| notice.clone()));
    if let Some(next) = next {
        summary.backfill = backfill::summarise(&next, &planned.plan).await?;
    }
    Ok(summary)
}

/// Plans for a scheduler: what it has to know to run the tasks elsewhere, without the time estimate that needs a device.
/// A plan without tasks is not stored. A night of `[next]` is bounded by `tokens_per_run` alone: minutes need a device.
pub async fn plan_brief(ctx: &RunContext) -> Result<PlanBrief> {
    let run = new_run_id();
    let warn = |message| ctx.reporter.event(Event::Warning { message });
    let (live, next) = match backfill::course(ctx, &ctx.reporter).await? {
        Course::Plain => (None, None),
        Course::Fill(next) => (None, Some(next)),
        Course::Live { ctx, notice } => {
            warn(notice);
            (Some(ctx), None)
        }
    };
    let ctx = live.as_deref().unwrap_or(ctx);
    let (planned, _) = ctx.plan(&run, &ctx.reporter).await?;
    let plan = &planned.plan;
    if plan.tasks() > 0 {
        plan.store(&ctx.root).await?;
    }
    let mut brief = PlanBrief::of(plan);
    if let Some(next) = next {
        brief.backfill = backfill::brief(&next, plan).await?.map(Box::new);
    }
    if plan.tasks() == 0 && brief.backfill.is_none() {
        discard_prepared(&ctx.root, &run).await?;
    }
    Ok(brief)
}

/// The last step of a scheduler that ran every task of a plan: judge the gates and commit. `report` is replaced by what
/// is known, also where an error is returned.
pub async fn publish_plan(
    ctx: &RunContext,
    plan_key: &str,
    options: &RunOptions,
    report: &mut RunReport,
) -> Result<()> {
    let run = run_of(plan_key);
    let plan = Plan::load(&ctx.root, run).await?;
    let next = backfill::context_of(ctx, &plan);
    let ctx = next.as_ref().unwrap_or(ctx);
    let timeline = Arc::new(Timeline::new());
    let reporter: Arc<dyn Reporter> =
        Arc::new(Tee(vec![Arc::clone(&ctx.reporter), Arc::clone(&timeline) as Arc<dyn Reporter>]));
    let env = ctx.env(&reporter);
    *report = report::begin(ctx, run);
    report::planned_only(report, &plan);
    report.newest = snapshot::newest(&ctx.root).await?.as_ref().map(NewestSnapshot::of);
    let outcome = match &plan.backfill {
        Some(_) => backfill::publish_plan(ctx, &plan, options, &env, report).await,
        None => publish_day(ctx, &plan, options, &env, report).await,
    };
    report::finish(report, &timeline);
    match outcome {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::GateRefused && plan.backfill.is_some() => {
            backfill::say_refused(&error, ctx, report);
        }
        Err(error) if error.kind() == ErrorKind::GateRefused => {
            report.warnings.push(error.to_string());
            report.outcome = Outcome::GateRefused;
            ctx.reporter.event(Event::Warning { message: error.to_string() });
        }
        Err(error) => return Err(error),
    }
    report::store(&ctx.root, report).await
}

async fn publish_day(
    ctx: &RunContext,
    plan: &Plan,
    options: &RunOptions,
    env: &TaskEnv,
    report: &mut RunReport,
) -> Result<()> {
    let receipts = local::finished(plan, env).await?;
    report::executed(report, &receipts);
    let mut workers = local::Workers::new(&ctx.pipeline, None)?;
    let drift = stage::measure_drift(&plan.gates, &plan.encode, workers.first(), env).await?;
    publish(ctx, plan, &receipts.build, drift, options, report).await
}

/// A run id, whether given as such or as the key of its plan.
fn run_of(plan_key: &str) -> &str {
    let key = plan_key.strip_prefix("runs/").unwrap_or(plan_key);
    key.strip_suffix("/plan.json").unwrap_or(key)
}

/// A worker bound to a device, for commands that encode outside a run (`snapshot verify`).
pub fn worker(pipeline: &Pipeline) -> Result<Worker> {
    Ok(local::Workers::new(pipeline, None)?.into_first())
}
