//! Plans whose tasks are executed elsewhere, or not at all.

use super::backfill::{self, Course};
use super::context::{RunContext, Session, new_run_id};
use super::run::refuse_moved;
use super::tasks::{local, measure_speed};
use crate::error::Result;
use crate::report::{PlanBrief, PlanSummary, SharesBrief};
use crate::snapshot::Manifest;
use crate::stage::{Moved, Plan, SharesPlan};
use crate::store::layout;

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
    if summary.tasks > 0 {
        summary.warnings.extend(planned.parent.as_ref().and_then(Manifest::rolled_back));
    }
    let configured = &session.ctx.pipeline.tower;
    let moved = Moved::since(planned.parent.as_ref(), &planned.plan, configured);
    summary.warnings.extend(moved.map(|moved| format!("{moved}. {}", moved.advice())));
    if let Some(next) = next {
        summary.backfill = backfill::summarise(&next, &planned.plan).await?;
    }
    Ok(summary)
}

/// For a scheduler that has the corpus read elsewhere, too: in how many shares, before there is a plan. Their tasks are those of
/// the stages `prepare` and `gather`; then [`plan_gathered`] plans with what they gathered.
pub async fn plan_shares(ctx: &RunContext) -> Result<SharesBrief> {
    ctx.admit_root().await?;
    let run = new_run_id();
    let Course { session, .. } = backfill::course(&Session::new(ctx)).await?;
    Ok(SharesBrief::of(&run, &session.shares(&run).await?))
}

/// Plans for a scheduler: what it has to know to run the tasks elsewhere, without the time estimate that needs a device.
/// A plan without tasks is not stored, and neither is one that a push to the tower's repository would make: a person
/// decides about that. A night of `[next]` is bounded by `tokens_per_run` alone: minutes need a device.
pub async fn plan_brief(ctx: &RunContext) -> Result<PlanBrief> {
    Box::pin(brief(ctx, None)).await
}

/// [`plan_brief`] of the run that [`plan_shares`] has begun, whose tasks are all done. `shares_key` is its id, or the key of
/// the plan of its shares. It may be asked again: the plan is stored also where it has no tasks.
///
/// # Errors
/// Transient, where a shard is not gathered; Conflict, where a snapshot was published meanwhile.
pub async fn plan_gathered(ctx: &RunContext, shares_key: &str) -> Result<PlanBrief> {
    Box::pin(brief(ctx, Some(shares_key))).await
}

/// Plans the day, from what was gathered for `shares` if the corpus was read before, and stores the plan. Without tasks it is
/// stored only for `shares`: a repeated attempt finds it there, while what it was made from may be gone.
async fn day(session: &Session, run: &str, shares: Option<&SharesPlan>) -> Result<Plan> {
    let planned = match shares {
        Some(shares) => session.plan_gathered(shares).await?,
        None => Box::pin(session.plan(run)).await?,
    };
    refuse_moved(session, &planned)?;
    session.check_questions(&planned.plan).await?;
    let (plan, root) = (planned.plan, &session.ctx.root);
    match shares {
        // Attempts have one run id.
        Some(_) => plan.store_once(root).await,
        None => {
            if plan.tasks() > 0 {
                plan.store(root).await?;
            }
            Ok(plan)
        }
    }
}

async fn brief(ctx: &RunContext, gathered: Option<&str>) -> Result<PlanBrief> {
    ctx.admit_root().await?;
    let run = gathered.map_or_else(new_run_id, |key| layout::run_of(key).to_owned());
    let Course { session, next, notice } = backfill::course(&Session::new(ctx)).await?;
    if let Some(message) = notice {
        ctx.reporter.warn(message);
    }
    session.questions().await?;
    let shares = match gathered {
        Some(_) => Some(SharesPlan::load(&ctx.root, &run).await?),
        None => None,
    };
    let plan = match Plan::stored(&ctx.root, &run).await? {
        Some(plan) => plan,
        None => day(&session, &run, shares.as_ref()).await?,
    };
    if let Some(shares) = &shares {
        shares.clear(&session.notes(&run, None)).await?;
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
