//! Plans whose tasks are executed elsewhere, or not at all.

use super::backfill::{self, Course};
use super::context::{RunContext, Session, new_run_id};
use super::run::refuse_moved;
use super::tasks::{local, measure_speed};
use crate::error::Result;
use crate::report::{PlanBrief, PlanSummary};
use crate::stage::Moved;

/// What a run would do: exact counts, and times from a short calibration on the first device. Nothing is encoded
/// for keeps; the plan is stored so that its tasks can be executed elsewhere.
pub async fn plan(ctx: &RunContext) -> Result<PlanSummary> {
    ctx.admit_root().await?;
    let run = new_run_id();
    let Course { session, next, notice } = backfill::course(&Session::new(ctx)).await?;
    session.questions().await?;
    let planned = session.plan(&run).await?;
    session.check_questions(&planned.plan).await?;
    let tower = session.document().await?.clone();
    let mut workers = local::Workers::new(&session.ctx.pipeline, Some(tower))?;
    let speed = measure_speed(&planned, usize::MAX, workers.first(), &session.env()).await?;
    planned.plan.store(&ctx.root).await?;
    // One loaded tower at a time.
    drop(workers);
    let mut summary = PlanSummary::of(&planned, speed);
    summary.warnings.extend(notice);
    let configured = &session.ctx.pipeline.tower;
    let moved = Moved::since(planned.parent.as_ref(), &planned.plan, configured);
    summary.warnings.extend(moved.map(|moved| format!("{moved}. {}", moved.advice())));
    if let Some(next) = next {
        summary.backfill = backfill::summarise(&next, &planned.plan).await?;
    }
    Ok(summary)
}

/// Plans for a scheduler: what it has to know to run the tasks elsewhere, without the time estimate that needs a device.
/// A plan without tasks is not stored, and neither is one that a push to the tower's repository would make: a person decides
/// about that. A night of `[next]` is bounded by `tokens_per_run` alone: minutes need a device.
pub async fn plan_brief(ctx: &RunContext) -> Result<PlanBrief> {
    ctx.admit_root().await?;
    let run = new_run_id();
    let Course { session, next, notice } = backfill::course(&Session::new(ctx)).await?;
    if let Some(message) = notice {
        ctx.reporter.warn(message);
    }
    session.questions().await?;
    let planned = session.plan(&run).await?;
    refuse_moved(&session, &planned)?;
    session.check_questions(&planned.plan).await?;
    let plan = planned.plan;
    if plan.tasks() > 0 {
        plan.store(&ctx.root).await?;
    }
    let mut brief = PlanBrief::of(&plan);
    if let Some(next) = next {
        brief.backfill = backfill::brief(&next, &plan).await?.map(Box::new);
    }
    if plan.tasks() == 0 && brief.backfill.is_none() {
        ctx.discard_prepared(&run).await?;
    }
    Ok(brief)
}
