//! The last step of a scheduler that ran every task of a plan.

use std::collections::BTreeSet;

use super::backfill;
use super::commit;
use super::context::{RunContext, RunOptions, Session};
use super::tasks::receipts::Receipts;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::report::{NewestSnapshot, Outcome, RunReport};
use crate::snapshot;
use crate::stage::{self, Plan};
use crate::store::layout;

/// The last step of a scheduler that ran every task of a plan: judge the gates and commit. `report` is replaced by what
/// is known, also where an error is returned.
pub async fn publish_plan(
    ctx: &RunContext,
    plan_key: &str,
    options: &RunOptions,
    report: &mut RunReport,
) -> Result<()> {
    snapshot::signer(&ctx.root).await?;
    let run = layout::run_of(plan_key);
    let plan = Plan::load(&ctx.root, run).await?;
    let mut session = Session::new(ctx).with_options(options);
    if let Some(pipeline) = backfill::pipeline_of(ctx, &plan) {
        session = session.with_pipeline(pipeline);
    }
    let (session, timeline) = session.recorded();
    let ctx = &session.ctx;
    *report = ctx.report(run);
    report.planned_only(&plan);
    report.newest = snapshot::newest(&ctx.root).await?.as_ref().map(NewestSnapshot::of);
    // A night's share that switches nothing publishes nothing.
    if plan.backfill.as_ref().is_none_or(|backfill| backfill.switches) {
        stage::refuse_other_tower(&plan, session.document().await?)?;
    }
    let outcome = match &plan.backfill {
        Some(_) => backfill::publish_plan(&session, &plan, report).await,
        None => publish_day(&session, &plan, report).await,
    };
    let outcome = snapshot::blame_purge(&ctx.root, run, plan.spec.under(), outcome).await;
    report.finish(&timeline);
    match outcome {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::GateRefused && plan.backfill.is_some() => {
            backfill::refused(&error, ctx, report);
            report.outcome = Outcome::GateRefused;
        }
        Err(error) if error.kind() == ErrorKind::GateRefused => {
            report.warnings.push(error.to_string());
            report.outcome = Outcome::GateRefused;
            ctx.reporter.warn(error.to_string());
        }
        Err(error) => {
            if let Some(lost) = commit::lost(&error, ctx, plan.spec.parent, report).await {
                report.outcome = lost;
            }
            return Err(error);
        }
    }
    let stored = report.store(&ctx.root, plan.spec.under()).await;
    stored.context(|| report.outcome.without_report())
}

async fn publish_day(session: &Session, plan: &Plan, report: &mut RunReport) -> Result<()> {
    let receipts = Receipts::read(plan, &session.ctx.root).await?;
    report.executed(&receipts.encode, &receipts.build, receipts.adapt.as_ref(), &BTreeSet::new());
    let drift = commit::measure_drift(session, plan).await?;
    commit::publish(session, plan, &receipts, drift, report).await
}
