//! Which towers a snapshot admits for queries.

use std::sync::Arc;

use super::RunContext;
use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::{Event, Reporter};
use crate::snapshot::{self, QueryTower};
use crate::stage;
use crate::tower::{DeviceSpec, Tower};

/// What a query tower that is to be admitted is asked.
const PROBE: &str = "how does it work?";

/// The tower that encodes a pipeline's queries, checked against its document tower. No weights are loaded.
///
/// # Errors
/// As [`Tower::resolve`]; Config where it belongs to another document tower.
pub async fn check_query_tower(pipeline: &Pipeline, reporter: &Arc<dyn Reporter>) -> Result<Tower> {
    let options = stage::absolute_tower(&pipeline.query_tower(), &pipeline.base_dir);
    let query = Tower::resolve(&options, &pipeline.base_dir, reporter).await?;
    let Some(teacher) = query.teacher() else { return Ok(query) };
    let document = Tower::resolve(&pipeline.tower, &pipeline.base_dir, reporter).await?;
    document.admits(&query)?;
    // A student repeats what its teacher said to this prompt, whatever stands in the pipeline.
    let asked = &pipeline.query;
    let prefixes = [asked.prompt_prefix.as_ref(), Some(&pipeline.tower.prompt_prefix)];
    let suffixes = [asked.prompt_suffix.as_ref(), Some(&pipeline.tower.prompt_suffix)];
    if !prefixes.contains(&Some(&teacher.prompt_prefix))
        || !suffixes.contains(&Some(&teacher.prompt_suffix))
    {
        let message = format!(
            "the query tower {} learnt from queries with another prompt ({:?} before, {:?} after) than this pipeline names",
            options.model, teacher.prompt_prefix, teacher.prompt_suffix
        );
        reporter.event(Event::Info { message });
    }
    Ok(query)
}

/// The towers that may encode queries: the configured one, by the fingerprint of everything that decides its
/// vectors.
pub(super) async fn query_towers(ctx: &RunContext) -> Result<Vec<QueryTower>> {
    let tower = check_query_tower(&ctx.pipeline, &ctx.reporter).await?;
    let kind = if ctx.pipeline.query.tower.is_some() { "distilled" } else { "document-tower" };
    let fingerprint = tower.fingerprint()?;
    let options = stage::absolute_tower(&ctx.pipeline.query_tower(), &ctx.pipeline.base_dir);
    let options = serde_json::to_value(options)
        .map_err(|e| Error::internal("writing query tower options").with_source(e))?;
    Ok(vec![QueryTower { fingerprint, kind: kind.to_owned(), options }])
}

/// Before any work: whether a query tower of its own may be admitted, and, where no snapshot has admitted it yet, whether it gives
/// a vector at all. No gate asks it, and one that was trained until it broke would answer every search with an error.
///
/// # Errors
/// As [`check_query_tower`]; Input where its vector is of no use.
pub(super) async fn probe_query_tower(ctx: &RunContext) -> Result<()> {
    if ctx.pipeline.query.tower.is_none() {
        return Ok(());
    }
    let tower = check_query_tower(&ctx.pipeline, &ctx.reporter).await?;
    let fingerprint = tower.fingerprint()?;
    let known = |snapshot: snapshot::Manifest| {
        snapshot.content.query_towers.iter().any(|tower| tower.fingerprint == fingerprint)
    };
    if snapshot::newest(&ctx.root).await?.is_some_and(known) {
        return Ok(());
    }
    let model = tower.options().model.clone();
    let probe = move || -> Result<bool> {
        let ids = tower.tokenizer().tokenize(PROBE)?.ids;
        let vectors = tower.load(&DeviceSpec::Cpu { threads: 0 })?.encode(&[&ids])?;
        let row = vectors.row(0);
        Ok(row.iter().all(|value| value.is_finite()) && row.iter().any(|value| *value != 0.0))
    };
    let useful = tokio::task::spawn_blocking(probe)
        .await
        .or_error(ErrorKind::Internal, || "asking the query tower")??;
    if useful {
        return Ok(());
    }
    Err(Error::input(format!(
        "the query tower {model} gives no usable vector (not finite, or zero): its training broke; train it again with a lower \
         optimizer.learning_rate"
    )))
}
