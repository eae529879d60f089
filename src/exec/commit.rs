//! The end of a plan whose tasks are done: the gates are judged, and the snapshot is committed.

use super::admission::query_towers;
use super::context::{RunContext, Session};
use super::tasks::local;
use super::tasks::receipts::Receipts;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{NewestSnapshot, Outcome, RunReport};
use crate::snapshot;
use crate::stage::{self, EvaluationRequest, Plan, PublishRequest, Published, Verdicts};

/// Publishes the day's snapshot and says so in the report.
pub(super) async fn publish(
    session: &Session,
    plan: &Plan,
    receipts: &Receipts,
    drift: Option<(f64, usize)>,
    report: &mut RunReport,
) -> Result<()> {
    let mut judged = Verdicts::default();
    let published = commit(session, plan, receipts, drift, &mut judged).await;
    (report.gates, report.evaluation) = (judged.gates, judged.evaluation);
    let published = published?;
    report.recall = published.recall;
    report.newest = Some(NewestSnapshot::of(&published.manifest));
    let snapshot = published.manifest.number;
    report.outcome = match published.is_new {
        true => Outcome::Published { snapshot },
        false => Outcome::NothingToDo { snapshot: Some(snapshot) },
    };
    Ok(())
}

/// Judges and commits.
pub(super) async fn commit(
    session: &Session,
    plan: &Plan,
    receipts: &Receipts,
    drift: Option<(f64, usize)>,
    judged: &mut Verdicts,
) -> Result<Published> {
    let pipeline = &session.ctx.pipeline;
    let evaluation = match session.questions().await? {
        Some(questions) => Some(EvaluationRequest {
            questions,
            query_tower: session.query().await?,
            base_dir: &pipeline.base_dir,
            device: pipeline.evaluation_device()?,
            reporter: &session.reporter,
            cancel: &session.ctx.cancel,
        }),
        None => None,
    };
    stage::publish(PublishRequest {
        plan,
        receipts: &receipts.build,
        tower: session.document().await?,
        tower_options: &pipeline.tower,
        query_towers: query_towers(session, plan, receipts.adapt.as_ref()).await?,
        drift,
        overrides: &session.options.overrides,
        root: &session.ctx.root,
        evaluation,
        judged,
    })
    .await
}

/// How a run ended whose error says that something else was written first: another publisher's snapshot came on top of the
/// one that it began with. `None` where that is not it.
pub(super) async fn lost(
    error: &Error,
    ctx: &RunContext,
    began_with: Option<u64>,
    report: &RunReport,
) -> Option<Outcome> {
    if error.kind() != ErrorKind::Conflict || report.outcome != Outcome::Unfinished {
        return None;
    }
    let snapshot = snapshot::numbers(&ctx.root).await.ok()?.pop()?;
    (Some(snapshot) != began_with).then_some(Outcome::LostTo { snapshot })
}

/// The drift of the tower, for a plan whose tasks other processes ran.
pub(super) async fn measure_drift(session: &Session, plan: &Plan) -> Result<Option<(f64, usize)>> {
    // It is about to be admitted; where it is a distilled one, the document tower is known afterwards.
    session.query().await?;
    let mut workers = local::Workers::new(&session.ctx.pipeline, session.known_document())?;
    stage::measure_drift(&plan.gates, &plan.encode, workers.first(), &session.env()).await
}
