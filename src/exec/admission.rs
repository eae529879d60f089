//! Which towers a snapshot admits for queries.

use super::context::Session;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::snapshot::{self, Adapted, QueryTower};
use crate::stage::{self, AdaptReceipt, Plan};
use crate::tower::{DeviceSpec, Fit, Tower, TowerOptions};

/// What a query tower that is to be admitted is asked.
const PROBE: &str = "how does it work?";

/// The towers that may encode queries: the configured one, by the fingerprint of everything that decides its vectors,
/// or what it was adapted to: by a task of the `plan`, or, where that had nothing to adapt, earlier. The configured one
/// is asked here too: the next tower's query tower, and that of a run on a cluster, come this way alone.
pub(super) async fn query_towers(
    session: &Session,
    plan: &Plan,
    adapted: Option<&AdaptReceipt>,
) -> Result<Vec<QueryTower>> {
    let tower = probe_query_tower(session).await?;
    let pipeline = &session.ctx.pipeline;
    let of_its_own = pipeline.query.tower.is_some();
    let kind = if of_its_own { QueryTower::DISTILLED } else { QueryTower::DOCUMENT };
    let options = stage::resolved_tower(&pipeline.query_tower(), &pipeline.base_dir, tower);
    let document = session.document().await?;
    // What goes without saying is not said: readers of release 0.1.0 know no teachers.
    let teacher = tower.teacher().filter(|_| of_its_own);
    let teacher = teacher.filter(|teacher| **teacher != document.space(teacher.template)).cloned();
    let named = QueryTower {
        fingerprint: tower.fingerprint()?,
        kind: kind.to_owned(),
        options: serde_json::to_value(&options).context(|| "writing query tower options")?,
        teacher,
        adapted: None,
    };
    let decided = pipeline.query_tower().is_pinned();
    let before = admitted(session, tower).await?;
    let before = before.filter(|before| is_same(before, &named, &options, decided));
    let named = before.unwrap_or(named);
    let adapted = match (&pipeline.query.adapt, &plan.adapt) {
        (None, _) => None,
        (Some(_), Some(_)) => adapted
            .and_then(|receipt| Some((receipt, receipt.tower.as_ref()?)))
            .map(|(receipt, tower)| QueryTower {
                fingerprint: tower.fingerprint,
                kind: QueryTower::DISTILLED.to_owned(),
                options: tower.options.clone(),
                teacher: tower.teacher.clone(),
                adapted: Some(Adapted {
                    files: tower.files.clone(),
                    options: tower.by,
                    steps_left: receipt.summary.steps_left,
                    base: Box::new(named.clone()),
                }),
            }),
        (Some(_), None) => newest_towers(session).await?.find(|tower| {
            tower.adapted.as_ref().is_some_and(|own| own.base.fingerprint == named.fingerprint)
        }),
    };
    Ok(vec![adapted.unwrap_or(named)])
}

/// The towers that the newest snapshot admits.
async fn newest_towers(session: &Session) -> Result<impl Iterator<Item = QueryTower>> {
    let newest = snapshot::newest(&session.ctx.root).await?;
    Ok(newest.into_iter().flat_map(|manifest| manifest.content.query_towers))
}

/// How the newest snapshot names a tower, where it admits it.
async fn admitted(session: &Session, tower: &Tower) -> Result<Option<QueryTower>> {
    let fingerprint = tower.fingerprint()?;
    // An adapted one was admitted as it was before, too.
    let bases = |tower: QueryTower| match tower.adapted {
        Some(adapted) => *adapted.base,
        None => tower,
    };
    let mut towers = newest_towers(session).await?.map(bases);
    Ok(towers.find(|tower| tower.fingerprint == fingerprint))
}

/// Whether the newest snapshot names a tower as well as `now` would: by another commit of the same repository, whose
/// files give the same vectors (unless a person `decided` on one), or as an earlier release said it. A day on which
/// nothing else changed then publishes nothing.
fn is_same(before: &QueryTower, now: &QueryTower, options: &TowerOptions, decided: bool) -> bool {
    let Ok(named) = serde_json::from_value::<TowerOptions>(before.options.clone()) else {
        return false;
    };
    let any = named.is_pinned() && options.is_pinned() && !decided;
    let revision = if any { &named.revision } else { &options.revision };
    before.kind == now.kind
        && (before.teacher.is_none() || before.teacher == now.teacher)
        && named.leads_to(&TowerOptions { revision: revision.clone(), ..options.clone() })
}

/// The query tower, which may be admitted, and, where it is one of its own that the newest snapshot does not admit yet,
/// gives a vector. No gate asks it, and one that was trained until it broke would answer every search with an error.
///
/// # Errors
/// As [`super::check_query_tower`]; Input where its vector is of no use.
pub(super) async fn probe_query_tower(session: &Session) -> Result<&Tower> {
    let tower = session.query().await?;
    if session.ctx.pipeline.query.tower.is_none() || admitted(session, tower).await?.is_some() {
        return Ok(tower);
    }
    let model = &tower.options().model;
    if session.document().await?.admits(tower)? == Fit::Unrecorded {
        session.reporter.warn(format!(
            "the files of the query tower {model} name no document tower: whether it was made for this one cannot be checked"
        ));
    }
    let asking = tower.clone();
    let asked = tokio::task::spawn_blocking(move || answers(&asking))
        .await
        .or_error(ErrorKind::Internal, || "trying the query tower")?;
    match asked {
        Ok(true) => Ok(tower),
        Ok(false) => Err(Error::input(format!(
            "the query tower {model} gives no usable vector (not finite, or zero): its training failed; train it again with a \
             lower optimizer.learning_rate"
        ))),
        // f16 computes on a GPU alone, which this machine need not have.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let why = error.message();
            session.reporter.info(format!("the query tower {model} was not tried: {why}"));
            Ok(tower)
        }
        Err(error) => Err(error).context(|| format!("trying the query tower {model}")),
    }
}

/// Whether a query's vector is one that can be searched with. A tower whose tokenizer knows no word of the query cannot
/// be asked.
fn answers(tower: &Tower) -> Result<bool> {
    let Ok(query) = tower.tokenizer().tokenize(PROBE) else { return Ok(true) };
    let vectors = tower.load(&DeviceSpec::Cpu { threads: 1 })?.encode(&[&query.ids])?;
    let row = vectors.row(0);
    Ok(row.iter().all(|value| value.is_finite()) && row.iter().any(|value| *value != 0.0))
}
