//! The task that adapts the query tower: whether there is one, and what it begins with.

use std::path::Path;

use super::envelope::{AdaptTask, RunSpec, ShardPlan};
use crate::error::{Error, Result};
use crate::snapshot::{Manifest, QueryTower};
use crate::stage::AdaptOptions;
use crate::store::Root;
use crate::tower::{Tower, TowerOptions};
use crate::types::{Digest256, Hasher256, Pooling, hash_json};

/// A query tower that is to be adapted.
pub struct AdaptRequest<'a> {
    /// How.
    pub options: &'a AdaptOptions,
    /// The tower as the pipeline names it, resolved.
    pub student: &'a Tower,
    /// Its options, every path absolute.
    pub named: TowerOptions,
}

/// The task, where the tower is to be adapted at all and the parent has not adapted it to these very notes, all its steps.
///
/// # Errors
/// Config for a tower that cannot learn.
pub(super) async fn lay_out(
    request: &AdaptRequest<'_>,
    spec: &RunSpec,
    root: &Root,
    parent: Option<&Manifest>,
    shards: &[ShardPlan],
) -> Result<Option<AdaptTask>> {
    refuse_unable(request)?;
    if shards.iter().all(|shard| shard.prepared.rows == 0) {
        return Ok(None);
    }
    let (options, fingerprint) = (request.options, request.student.fingerprint()?);
    let previous = previous(root, spec, parent, fingerprint).await?;
    let adapted = previous.as_ref().and_then(|tower| tower.adapted.as_ref());
    let by = options.digest()?;
    if adapted.is_some_and(|adapted| adapted.options == by && adapted.steps_left == 0)
        && shards.iter().all(|shard| shard.unchanged)
    {
        return Ok(None);
    }
    let teacher = teacher(spec, request.student);
    let mut hasher = Hasher256::new();
    hasher.field(&spec.space_id.0).field(fingerprint.0);
    hasher.field(hash_json(&(options, &teacher, &previous))?.0);
    for shard in shards {
        hasher.field(shard.prepared.content.0);
    }
    Ok(Some(AdaptTask {
        id: format!("adapt-{}", hasher.finish().short()),
        spec: spec.clone(),
        options: options.clone(),
        student: request.named.clone(),
        fingerprint,
        teacher,
        notes: shards.iter().map(|shard| shard.prepared.clone()).collect(),
        previous,
    }))
}

/// Only an encoder that reads bare texts learns here.
fn refuse_unable(request: &AdaptRequest<'_>) -> Result<()> {
    let AdaptRequest { student, named, .. } = request;
    let resolved = student.options();
    let prompted = [resolved.prompt_prefix(), resolved.prompt_suffix()] != ["", ""];
    let why = if student.config().is_some() || named.model.starts_with("fake:") {
        "only an encoder (the BERT family) can be adapted"
    } else if resolved.pooling() != Pooling::Mean || !resolved.normalize() {
        "a tower that is adapted must have pooling = \"mean\" and normalize = true"
    } else if prompted {
        "a tower with a prompt cannot be adapted"
    } else if !Path::new(&resolved.model).is_dir() {
        "a tower that is adapted must be a folder on this machine"
    } else if named.adapter.is_some() || named.head.is_some() {
        "a tower with an adapter or a head of its own cannot be adapted"
    } else if named.layers.is_some() || named.dimensions.is_some() {
        "a tower that is cut in layers or dimensions cannot be adapted"
    } else {
        return Ok(());
    };
    Err(Error::config(format!(
        "the query tower {}: {why}; take [query.adapt] away, or name another [query.tower]",
        named.model
    )))
}

/// What the parent snapshot made of the same tower for the same document tower, if its files are there.
async fn previous(
    root: &Root,
    spec: &RunSpec,
    parent: Option<&Manifest>,
    fingerprint: Digest256,
) -> Result<Option<QueryTower>> {
    let content = parent.map(|parent| &parent.content);
    let Some(content) = content.filter(|c| c.space.incomparable(&spec.space).is_empty()) else {
        return Ok(None);
    };
    for tower in &content.query_towers {
        let Some(adapted) = &tower.adapted else { continue };
        if adapted.base.fingerprint != fingerprint {
            continue;
        }
        for file in &adapted.files {
            if root.size(&file.path).await? != Some(file.size) {
                return Ok(None);
            }
        }
        return Ok(Some(tower.clone()));
    }
    Ok(None)
}

/// The document tower as it placed what the student was taught; as it places notes where the student does not know.
fn teacher(spec: &RunSpec, student: &Tower) -> TowerOptions {
    let own = spec.tower.clone();
    match student.teacher() {
        Some(taught) => TowerOptions {
            prompt_prefix: Some(taught.prompt_prefix.clone()),
            prompt_suffix: Some(taught.prompt_suffix.clone()),
            // The worker's tower was loaded for no longer ones.
            max_tokens: Some(taught.max_tokens.min(spec.tower.max_tokens())),
            ..own
        },
        None => own,
    }
}
