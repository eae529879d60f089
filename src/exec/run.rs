//! A whole run: prepare, encode, build, publish.

use super::backfill::{self, Course};
use super::commit;
use super::context::{RunContext, RunOptions, Session, lease, new_run_id};
use super::fleet::Fleet;
use super::purge;
use super::tasks::receipts::Receipts;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::{Running, Stage};
use crate::report::{Outcome, RunReport, truncation_warning};
use crate::snapshot::{self, PlannedUnder, RunLease, check_store};
use crate::stage::{Moved, Plan, Planned, refuse_drift};

/// prepare -> encode -> build -> publish in this process. The report also is under `runs/<run id>/`, whatever
/// the outcome.
///
/// # Errors
/// Busy where another run of the root is in progress. Else whatever stopped the run; what was finished is kept. A
/// refused gate and a lost race are outcomes of the report, not errors.
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
        return Err(super::not_built());
    }
    ctx.admit_root().await?;
    let run = new_run_id();
    if !options.no_publish && !options.only_plan {
        snapshot::signer(&ctx.root).await?;
    }
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
    let (session, timeline) = Session::new(ctx).with_options(options).recorded();
    *report = ctx.report(run);
    // Where the store does not answer, the run meets that itself.
    let newest = snapshot::newest(&ctx.root).await.ok().flatten();
    let under = PlannedUnder::of(newest.as_ref());
    // Boxed: it holds a hundred kilobytes, which every caller's future would hold, too.
    let finished = Box::pin(drive(&session, run, lease, report)).await;
    report.finish(&timeline);
    if let Err(error) = &finished {
        report.warnings.push(error.told());
        // What was published before the error stands.
        if error.kind() == ErrorKind::GateRefused {
            report.outcome = Outcome::GateRefused;
        } else if let Some(lost) = commit::lost(error, ctx, under.parent, report).await {
            report.outcome = lost;
        }
    }
    let stored = match report.outcome {
        // The report is that of the run whose plan this is, once its tasks are done.
        Outcome::Planned => Ok(()),
        _ => report.store(&ctx.root, under).await,
    };
    match finished {
        Ok(()) => stored.context(|| report.outcome.without_report()),
        Err(error) if error.kind() == ErrorKind::GateRefused => {
            ctx.reporter.warn(error.told());
            Ok(())
        }
        // The cause of the failure matters more than a report that could not be stored.
        Err(error) => Err(error),
    }
}

/// The day, and the night after it where a tower is to take over.
async fn drive(
    session: &Session,
    run: &str,
    lease: Option<&RunLease>,
    report: &mut RunReport,
) -> Result<()> {
    check_store(&session.ctx.root).await?;
    if lease.is_some() {
        purge::repeat(session).await?;
    }
    let Course { session, next, notice } = backfill::course(session).await?;
    if let Some(message) = notice {
        report.config = session.ctx.config_summary();
        session.reporter.warn(message);
    }
    let plan = day(&session, run, lease, report).await?;
    if let Some(next) = next.filter(|_| !session.options.no_publish) {
        backfill::night(&next, &plan, report).await?;
    }
    if plan.tasks() == 0 && report.outcome.is_nothing() {
        // Nothing was done with the prepared text that is of use later: it need not be around until retention.
        session.ctx.discard_prepared(&plan.spec.run).await?;
    }
    Ok(())
}

/// Refuses to encode everything again because somebody pushed to the tower's repository, unless a person decided so.
///
/// # Errors
/// GateRefused.
pub(super) fn refuse_moved(session: &Session, planned: &Planned) -> Result<()> {
    let configured = &session.ctx.pipeline.tower;
    match Moved::since(planned.parent.as_ref(), &planned.plan, configured) {
        Some(moved) => moved.refuse(&planned.plan, session.options.overrides_drift()),
        None => Ok(()),
    }
}

/// prepare -> encode -> build -> publish with the tower of the session.
async fn day(
    session: &Session,
    run: &str,
    lease: Option<&RunLease>,
    report: &mut RunReport,
) -> Result<Plan> {
    let Session { ctx, options, reporter, .. } = session;
    // What is wrong with the questions is said before the corpus is read.
    session.questions().await?;
    if options.only_plan {
        let planned = session.plan(run).await?;
        report.planned(&planned);
        refuse_moved(session, &planned)?;
        session.check_questions(&planned.plan).await?;
        planned.plan.store(&ctx.root).await?;
        report.outcome = Outcome::Planned;
        return Ok(planned.plan);
    }
    let (planned, mut fleet) = Fleet::plan(session, run).await?;
    report.planned(&planned);
    refuse_moved(session, &planned)?;
    let plan = &planned.plan;
    session.check_questions(plan).await?;
    if let Some(message) = truncation_warning(plan) {
        reporter.warn(message);
    }
    if plan.tasks() > 0 {
        fleet.store(plan, ctx).await?;
    }
    let env = session.env();
    let drift = fleet.check(plan, ctx.pipeline.encode.self_test, &env).await?;
    refuse_drift(drift, &plan.gates, options.overrides_drift())?;
    let speed = fleet.speed(&planned, &env).await?;
    report.estimated(&plan.spec, speed);
    if let Some(message) = report.estimate(speed) {
        reporter.info(message);
    }
    let plan = planned.plan;
    let mut receipts = Receipts::default();
    let outcome = fleet.run(&plan, session, &env, &mut receipts).await;
    let (adapt, adopted) = (receipts.adapt.as_ref(), env.adopted.ids());
    report.executed(&receipts.encode, &receipts.build, adapt, &adopted);
    if outcome.is_err() {
        report.interrupted(&env.kept);
    }
    outcome?;
    if options.no_publish {
        report.outcome = Outcome::NotPublished;
        return Ok(plan);
    }
    // One loaded tower at a time: publishing may ask queries.
    drop(fleet);
    let stage = Running::begin(&**reporter, Stage::Publish, (0, "snapshots"), 0);
    if let Some(lease) = lease {
        lease.check().await?;
    }
    commit::publish(session, &plan, &receipts, drift, report).await?;
    stage.end(report.outcome.to_string());
    Ok(plan)
}
