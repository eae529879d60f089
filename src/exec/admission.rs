//! Which towers a snapshot admits for queries.

use super::context::Session;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::snapshot::{self, QueryTower};
use crate::stage;
use crate::tower::{DeviceSpec, Tower};

/// What a query tower that is to be admitted is asked.
const PROBE: &str = "how does it work?";

/// The towers that may encode queries: the configured one, by the fingerprint of everything that decides its
/// vectors. It is asked here too: the next tower's query tower, and that of a run on a cluster, come this way alone.
pub(super) async fn query_towers(session: &Session) -> Result<Vec<QueryTower>> {
    let tower = probe_query_tower(session).await?;
    let pipeline = &session.ctx.pipeline;
    let kind = if pipeline.query.tower.is_some() { "distilled" } else { "document-tower" };
    let fingerprint = tower.fingerprint()?;
    let options = stage::absolute_tower(&pipeline.query_tower(), &pipeline.base_dir);
    let options = serde_json::to_value(options).context(|| "writing query tower options")?;
    Ok(vec![QueryTower { fingerprint, kind: kind.to_owned(), options }])
}

/// The query tower, which may be admitted, and, where it is one of its own that the newest snapshot does not admit yet, gives a
/// vector. No gate asks it, and one that was trained until it broke would answer every search with an error.
///
/// # Errors
/// As [`super::check_query_tower`]; Input where its vector is of no use.
pub(super) async fn probe_query_tower(session: &Session) -> Result<&Tower> {
    let tower = session.query().await?;
    if session.ctx.pipeline.query.tower.is_none() {
        return Ok(tower);
    }
    let fingerprint = tower.fingerprint()?;
    let known = |snapshot: snapshot::Manifest| {
        snapshot.content.query_towers.iter().any(|tower| tower.fingerprint == fingerprint)
    };
    if snapshot::newest(&session.ctx.root).await?.is_some_and(known) {
        return Ok(tower);
    }
    let model = &tower.options().model;
    let asking = tower.clone();
    let asked = tokio::task::spawn_blocking(move || answers(&asking))
        .await
        .or_error(ErrorKind::Internal, || "asking the query tower")?;
    match asked {
        Ok(true) => Ok(tower),
        Ok(false) => Err(Error::input(format!(
            "the query tower {model} gives no usable vector (not finite, or zero): its training broke; train it again with a \
             lower optimizer.learning_rate"
        ))),
        // f16 computes on a GPU alone, which this machine need not have.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let why = error.message();
            session.reporter.info(format!("the query tower {model} was not asked: {why}"));
            Ok(tower)
        }
        Err(error) => Err(error).context(|| format!("asking the query tower {model}")),
    }
}

/// Whether a query's vector is one that can be searched with. A tower whose tokenizer knows no word of the query cannot be asked.
fn answers(tower: &Tower) -> Result<bool> {
    let Ok(query) = tower.tokenizer().tokenize(PROBE) else { return Ok(true) };
    let vectors = tower.load(&DeviceSpec::Cpu { threads: 1 })?.encode(&[&query.ids])?;
    let row = vectors.row(0);
    Ok(row.iter().all(|value| value.is_finite()) && row.iter().any(|value| *value != 0.0))
}
