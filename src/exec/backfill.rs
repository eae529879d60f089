//! The tower that is to take over: which tower a run publishes with, what a night encodes for the next one, and the
//! switch.
//!
//! ```text
//! [tower] is the newest snapshot's:   the day with [tower] -> a night's share for [next.tower] -> all there? switch
//! [next.tower] is:                    the day with [next.tower]; [tower] is idle
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::commit::{commit, measure_drift};
use super::context::{RunContext, Session};
use super::fleet::Fleet;
use super::tasks::{local, measure_speed, receipts::Receipts};
use crate::config::{NextOptions, Pipeline};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::{Stage, Timeline};
use crate::report::{
    BackfillReport, BackfillState, BackfillSummary, NewestSnapshot, Outcome, PlanBrief, RunReport,
};
use crate::snapshot::{self, Manifest};
use crate::stage::{self, EncodeReceipt, Plan, Planned, TaskEnv, Verdicts};
use crate::store::Root;
use crate::tower::Tower;
use crate::types::{Digest256, SpaceId};

/// The tower that is to take over.
pub(super) struct Next {
    /// With the pipeline as it will be.
    session: Session,
    options: NextOptions,
    /// Why it cannot be opened does not concern the day.
    tower: Result<Tower>,
    rolled_back: bool,
}

/// What a run works for.
pub(super) struct Course {
    /// With the configured tower, or with the next one where that has taken over.
    pub session: Session,
    /// The tower that is to take over afterwards.
    pub next: Option<Box<Next>>,
    /// Where the next tower has taken over: what to tell a person.
    pub notice: Option<String>,
}

/// The id of the back-fill that belongs to a run.
fn run_of_night(day: &str) -> String {
    format!("{day}-next")
}

fn space_of(tower: &Tower, pipeline: &Pipeline) -> Result<SpaceId> {
    tower.space(Digest256::of(pipeline.corpus.template.as_bytes())).id()
}

/// Decides by the newest snapshot's embedding space.
///
/// # Errors
/// Those of opening the next tower only where it may be the one that publishes.
pub(super) async fn course(session: &Session) -> Result<Course> {
    let ctx = &session.ctx;
    let with = |next| Course { session: session.clone(), next, notice: None };
    let (Some(options), Some(pipeline)) = (&ctx.pipeline.next, ctx.pipeline.after_next()) else {
        return Ok(with(None));
    };
    let newest = snapshot::newest(&ctx.root).await?;
    let served = newest.as_ref().map(|manifest| &manifest.content.space_id);
    let after = session.with_pipeline(pipeline);
    let tower = after.document().await.cloned();
    let space =
        tower.as_ref().ok().map(|tower| space_of(tower, &after.ctx.pipeline)).transpose()?;
    if let (Some(manifest), true) = (&newest, space.is_some() && served == space.as_ref()) {
        let since = live_since(&ctx.root, manifest).await?;
        let notice = format!(
            "[next.tower] is live since snapshot {since}: move it to [tower] and remove [next]; \
             nothing will be encoded again"
        );
        return Ok(Course { session: after, next: None, notice: Some(notice) });
    }
    let tower = match (tower, served) {
        (Err(error), Some(served)) => {
            if space_of(session.document().await?, &ctx.pipeline)? != *served {
                return Err(error).context(|| "opening [next.tower], which may be live");
            }
            Err(error)
        }
        (tower, _) => tower,
    };
    let blocked = newest.as_ref().map(|manifest| &manifest.blocked_spaces);
    let rolled_back = blocked.zip(space.as_ref()).is_some_and(|(list, own)| list.contains(own));
    let next = Next { session: after, options: options.clone(), tower, rolled_back };
    Ok(with(Some(Box::new(next))))
}

/// The oldest retained snapshot from which on every one is of the newest one's space.
async fn live_since(root: &Root, newest: &Manifest) -> Result<u64> {
    let mut since = newest.number;
    for number in snapshot::numbers(root).await?.into_iter().rev().skip(1) {
        match snapshot::read(root, number).await {
            Ok(older) if older.content.space_id == newest.content.space_id => since = number,
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(since)
}

/// The pipeline whose tower a stored plan was made with, where it is that of `[next]`: for a back-fill, and for the
/// days after the switch.
pub(super) fn pipeline_of(ctx: &RunContext, plan: &Plan) -> Option<Pipeline> {
    let pipeline = ctx.pipeline.after_next()?;
    let is_next = is_named(&pipeline, plan) && !is_named(&ctx.pipeline, plan);
    (plan.backfill.is_some() || is_next).then_some(pipeline)
}

/// Whether a plan's tower and template are a pipeline's; where that pins no commit, a plan's commit may be any.
fn is_named(pipeline: &Pipeline, plan: &Plan) -> bool {
    let spec = &plan.spec;
    let mut tower = stage::absolute_tower(&pipeline.tower, &pipeline.base_dir);
    if !tower.is_pinned() {
        tower.revision.clone_from(&spec.tower.revision);
    }
    tower.leads_to(&spec.tower)
        && Digest256::of(pipeline.corpus.template.as_bytes()) == spec.template
}

impl Next {
    /// The next space against the corpus of the day: what it still needs. `None` where there is nothing to fill.
    async fn plan(&self, session: &Session, tower: &Tower, day: &Plan) -> Result<Option<Planned>> {
        let pipeline = &session.ctx.pipeline;
        if space_of(tower, pipeline)? == day.spec.space_id {
            let message = "[next.tower] is the same as [tower]: remove [next]";
            session.reporter.warn(message.to_owned());
            return Ok(None);
        }
        let chunks = pipeline.chunking.is_some() || self.options.chunking.is_some();
        let same_text = Digest256::of(pipeline.corpus.template.as_bytes()) == day.spec.template;
        let prepared = (same_text && !chunks).then_some(&day.prepared);
        let run = run_of_night(&day.spec.run);
        session.plan_with(tower, &run, prepared).await.map(Some)
    }

    fn opened(&self) -> Result<&Tower> {
        self.tower.as_ref().map_err(|error| {
            Error::new(error.kind(), format!("[next.tower] cannot be opened: {error}"))
        })
    }

    fn idle(&self) -> BackfillReport {
        BackfillReport {
            model: self.session.ctx.pipeline.tower.model.clone(),
            state: BackfillState::RolledBack,
            ..BackfillReport::default()
        }
    }
}

/// The night after a day whose snapshot is published: encodes as much as the budget allows, and switches once
/// everything is there. Reaching the deadline is the normal end of a night.
///
/// # Errors
/// What stopped it, other than a deadline or a gate; the day's snapshot stands.
pub(super) async fn night(next: &Next, day: &Plan, report: &mut RunReport) -> Result<()> {
    let started = Instant::now();
    let (session, timeline) = next.session.recorded();
    let ctx = &session.ctx;
    let outcome = fill(next, &session, day, &timeline, report).await;
    report.warnings.extend(timeline.warnings());
    if let Some(backfill) = &mut report.backfill {
        backfill.seconds = started.elapsed().as_secs_f64();
    }
    match outcome {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Deadline => {}
        Err(error) if error.kind() == ErrorKind::GateRefused => refused(&error, ctx, report),
        Err(error) => {
            let model = &ctx.pipeline.tower.model;
            return Err(error)
                .context(|| format!("{}; back-filling [next.tower] {model}", report.outcome));
        }
    }
    if report.outcome != Outcome::Planned && !report.has_switched() {
        // Tomorrow's plan starts from what is stored then.
        ctx.discard_prepared(&run_of_night(&day.spec.run)).await?;
    }
    Ok(())
}

/// The day's snapshot stays; the report says why there was no switch.
pub(super) fn refused(error: &Error, ctx: &RunContext, report: &mut RunReport) {
    let (outcome, model) = (report.outcome, &ctx.pipeline.tower.model);
    let why = error.told();
    let message = format!("{outcome}; the switch to [next.tower] {model} was refused: {why}");
    ctx.reporter.warn(message.clone());
    report.warnings.push(message);
    let backfill = report.backfill.get_or_insert_default();
    backfill.state = BackfillState::Refused;
    backfill.refusal = Some(why);
}

async fn fill(
    next: &Next,
    session: &Session,
    day: &Plan,
    timeline: &Timeline,
    report: &mut RunReport,
) -> Result<()> {
    let Session { ctx, options, reporter, .. } = session;
    if next.rolled_back {
        let idle = next.idle();
        reporter.warn(idle.to_string());
        report.backfill = Some(idle);
        return Ok(());
    }
    let tower = next.opened()?;
    let Some(planned) = next.plan(session, tower, day).await? else { return Ok(()) };
    let plan = stage::backfill_plan(planned, &day.spec.run, next.options.tokens_per_run);
    let Some(backfill) = plan.backfill.clone() else { return Ok(()) };
    plan.store(&ctx.root).await?;
    let progress = report.backfill.insert(BackfillReport::planned(&plan));
    if options.only_plan {
        return Ok(());
    }
    reporter.info(format!("next {progress}"));

    let env = session.env();
    let cancel = match next.options.minutes_per_run {
        Some(minutes) => env.cancel.within(Duration::from_secs(u64::from(minutes) * 60)),
        None => env.cancel.clone(),
    };
    let night = TaskEnv { cancel, ..env.clone() };
    let mut fleet = Fleet::for_plan(session, &report.run, tower.clone())?;
    let mut receipts = Receipts::default();
    let mut drift = None;
    let encode = Plan { calibrate: None, adapt: None, build: Vec::new(), ..plan.clone() };
    let encoded = async {
        drift = fleet.check(&encode, ctx.pipeline.encode.self_test, &night).await?;
        stage::refuse_drift(drift, &plan.gates, options.overrides_drift())?;
        fleet.run(&encode, session, &night, &mut receipts).await
    }
    .await;
    let (texts, tokens) = timeline.stage(Stage::Encode).map_or((0, 0), |s| (s.done, s.tokens));
    let pace = match (&encoded, next.options.tokens_per_run) {
        (Ok(()), Some(budget)) => budget,
        _ => tokens,
    };
    progress.encoded(texts, tokens, pace);
    encoded?;
    if !backfill.switches {
        return Ok(());
    }
    let build = Plan { encode: Vec::new(), ..plan.clone() };
    fleet.run(&build, session, &env, &mut receipts).await?;
    // One loaded tower at a time: publishing may ask queries.
    drop(fleet);
    switch(session, &plan, &receipts, drift, report).await
}

/// Judges and publishes the complete next space.
async fn switch(
    session: &Session,
    plan: &Plan,
    receipts: &Receipts,
    drift: Option<(f64, usize)>,
    report: &mut RunReport,
) -> Result<()> {
    let mut judged = Verdicts::default();
    let published = commit(session, plan, receipts, drift, &mut judged).await;
    let backfill = report.backfill.get_or_insert_default();
    (backfill.gates, backfill.evaluation) = (judged.gates, judged.evaluation);
    let published = published?;
    let snapshot = published.manifest.number;
    backfill.recall = published.recall;
    backfill.state = BackfillState::Switched { snapshot };
    report.newest = Some(NewestSnapshot::of(&published.manifest));
    report.outcome = Outcome::Published { snapshot };
    session.reporter.info(format!("next {backfill}"));
    Ok(())
}

/// The last step of a scheduler for the back-fill of a day: the switch where the plan can switch, else nothing.
pub(super) async fn publish_plan(
    session: &Session,
    plan: &Plan,
    report: &mut RunReport,
) -> Result<()> {
    let root = &session.ctx.root;
    let receipts = Receipts::read(plan, root).await?;
    report.executed(&receipts.encode, &receipts.build, receipts.adapt.as_ref(), &BTreeSet::new());
    let mut progress = BackfillReport::planned(plan);
    let total = |value: fn(&EncodeReceipt) -> u64| receipts.encode.iter().map(value).sum();
    let tokens: u64 = total(|receipt| receipt.tokens);
    progress.encoded(total(|receipt| receipt.texts), tokens, tokens);
    report.backfill = Some(progress);
    let newest = snapshot::newest(root).await?;
    report.outcome = Outcome::NothingToDo { snapshot: newest.map(|manifest| manifest.number) };
    if !plan.backfill.as_ref().is_some_and(|backfill| backfill.switches) {
        return Ok(());
    }
    let drift = measure_drift(session, plan).await?;
    switch(session, plan, &receipts, drift, report).await
}

/// The night's plan for a scheduler, stored beside the day's. A tower that cannot be opened must not stop the day.
pub(super) async fn brief(next: &Next, day: &Plan) -> Result<Option<PlanBrief>> {
    let session = &next.session;
    if next.rolled_back {
        session.reporter.warn(next.idle().to_string());
        return Ok(None);
    }
    let tower = match next.opened() {
        Ok(tower) => tower,
        Err(error) => {
            session.reporter.warn(error.to_string());
            return Ok(None);
        }
    };
    let root = &session.ctx.root;
    // An earlier attempt may have stored it.
    if let Some(plan) = Plan::stored(root, &run_of_night(&day.spec.run)).await? {
        return Ok(Some(PlanBrief::of(&plan)));
    }
    let Some(planned) = next.plan(session, tower, day).await? else { return Ok(None) };
    let plan = stage::backfill_plan(planned, &day.spec.run, next.options.tokens_per_run);
    plan.store(root).await?;
    Ok(Some(PlanBrief::of(&plan)))
}

/// The back-fill's part of `scalingnote plan`: its plan is stored beside the day's. The share of a night in minutes
/// follows from a short calibration.
pub(super) async fn summarise(next: &Next, day: &Plan) -> Result<Option<BackfillSummary>> {
    if next.rolled_back {
        return Ok(Some(BackfillSummary { progress: next.idle(), ..BackfillSummary::default() }));
    }
    let tower = next.opened()?;
    let session = &next.session;
    let pipeline = &session.ctx.pipeline;
    let Some(planned) = next.plan(session, tower, day).await? else { return Ok(None) };
    let mut workers = local::Workers::new(pipeline, Some(tower.clone()))?;
    let speed = measure_speed(&planned, usize::MAX, workers.first(), &session.env()).await?;
    let devices = pipeline.encode.devices.len() as f64;
    let in_time = next.options.minutes_per_run.zip(speed).map(|(minutes, speed)| {
        let tokens = (f64::from(minutes) * 60.0 * speed * devices) as u64;
        tokens.max(u64::from(next.options.tower.max_tokens()))
    });
    let limit = next.options.tokens_per_run.into_iter().chain(in_time).min();
    let plan = stage::backfill_plan(planned, &day.spec.run, limit);
    plan.store(&session.ctx.root).await?;
    Ok(Some(BackfillSummary::of(&plan, speed, limit.is_some())))
}
