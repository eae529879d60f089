//! Which towers a snapshot admits for queries.

use super::RunContext;
use crate::error::{Error, Result};
use crate::snapshot::QueryTower;
use crate::stage;
use crate::tower::Tower;

/// The towers that may encode queries: the configured one, by the fingerprint of everything that decides its
/// vectors.
pub(super) async fn query_towers(ctx: &RunContext) -> Result<Vec<QueryTower>> {
    let options = stage::absolute_tower(&ctx.pipeline.query_tower(), &ctx.pipeline.base_dir);
    let tower = Tower::resolve(&options, &ctx.pipeline.base_dir, &ctx.reporter).await?;
    let kind = if ctx.pipeline.query.tower.is_some() { "distilled" } else { "document-tower" };
    if tower.teacher().is_some() {
        let document = Tower::resolve(&ctx.pipeline.tower, &ctx.pipeline.base_dir, &ctx.reporter);
        document.await?.admits(&tower)?;
    }
    let fingerprint = tower.fingerprint()?;
    let options = serde_json::to_value(&options)
        .map_err(|e| Error::internal("writing query tower options").with_source(e))?;
    Ok(vec![QueryTower { fingerprint, kind: kind.to_owned(), options }])
}
