//! Which towers a snapshot admits for queries.

use super::RunContext;
use crate::error::{Error, Result};
use crate::snapshot::QueryTower;
use crate::stage;
use crate::tower::Tower;
use crate::types::EmbeddingSpace;

/// The towers that may encode queries: the configured one, by the fingerprint of everything that decides its
/// vectors.
pub(super) async fn query_towers(ctx: &RunContext) -> Result<Vec<QueryTower>> {
    let options = stage::absolute_tower(&ctx.pipeline.query_tower(), &ctx.pipeline.base_dir);
    let tower = Tower::resolve(&options, &ctx.pipeline.base_dir, &ctx.reporter).await?;
    let kind = if ctx.pipeline.query.tower.is_some() { "distilled" } else { "document-tower" };
    if let Some(teacher) = tower.teacher() {
        let document = Tower::resolve(&ctx.pipeline.tower, &ctx.pipeline.base_dir, &ctx.reporter);
        check_teacher(teacher, &document.await?.space(teacher.template))?;
    }
    let fingerprint = tower.fingerprint()?;
    let options = serde_json::to_value(&options)
        .map_err(|e| Error::internal("writing query tower options").with_source(e))?;
    Ok(vec![QueryTower { fingerprint, kind: kind.to_owned(), options }])
}

/// A distilled query tower gives the vectors of the tower it was distilled from: those of this document tower, or
/// nothing that can be compared. Prompts and lengths of queries are the teacher's own affair.
fn check_teacher(teacher: &EmbeddingSpace, document: &EmbeddingSpace) -> Result<()> {
    let differing: Vec<&str> = [
        ("weights", teacher.weights != document.weights),
        ("adapter", teacher.adapter != document.adapter),
        ("tokenizer", teacher.tokenizer != document.tokenizer),
        ("pooling", teacher.pooling != document.pooling),
        ("dimensions", teacher.dimensions != document.dimensions),
        ("normalize", teacher.normalize != document.normalize),
        ("encoder_revision", teacher.encoder_revision != document.encoder_revision),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "query.tower was distilled from another tower than this pipeline's (other {}); distil it again from this one",
        differing.join(", ")
    )))
}
