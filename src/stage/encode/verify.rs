//! The second half of `snapshot verify`: a sample of the snapshot's notes is encoded again.

use super::drift::{self, StoredText};
use crate::error::{Error, ErrorKind, Result, found, unless};
use crate::snapshot::{self, Manifest};
use crate::stage::plan::Plan;
use crate::stage::vectors::Places;
use crate::stage::worker::{TaskEnv, Worker};

/// What re-encoding a sample showed.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleCheck {
    /// This many notes were encoded again, with this least cosine to what is stored.
    Compared {
        /// Notes.
        notes: usize,
        /// Least cosine.
        least_cosine: f64,
    },
    /// The prepared text of the run that made the content is gone (retention, a purge) or another release's; nothing to
    /// encode.
    TextGone,
}

/// Encodes up to `limit` notes of the snapshot again and compares with the stored vectors.
pub async fn verify_sample(
    manifest: &Manifest,
    limit: usize,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<SampleCheck> {
    let run = snapshot::made_by(&env.root, manifest).await?;
    let Some(run) = run else { return Ok(SampleCheck::TextGone) };
    let plan = Plan::load(&env.root, &run).await;
    // A plan of another release says nothing about the text that is read here.
    let foreign = |e: &Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported);
    let Some(plan) = unless(plan, foreign)? else { return Ok(SampleCheck::TextGone) };
    let texts = stored_texts(manifest, &plan, limit, env).await;
    let Some(texts) = found(texts)? else { return Ok(SampleCheck::TextGone) };
    let notes = texts.len();
    let least_cosine = drift::least_cosine(texts, &plan.spec, worker, env).await?;
    Ok(SampleCheck::Compared { notes, least_cosine })
}

async fn stored_texts(
    manifest: &Manifest,
    plan: &Plan,
    limit: usize,
    env: &TaskEnv,
) -> Result<Vec<StoredText>> {
    let live: Vec<_> = manifest.content.shards.iter().filter(|shard| shard.vectors > 0).collect();
    let per_shard = limit.div_ceil(live.len().max(1));
    let mut texts = Vec::new();
    for shard in live {
        let Some(planned) = plan.shards.get(shard.shard as usize) else { continue };
        let ids = env.inputs.ids(&env.root, shard).await?;
        let places: Places = ids.rows.into_iter().map(|row| (row.text_hash, row.place)).collect();
        texts.extend(drift::sample(env, planned, &places, per_shard).await?);
    }
    texts.truncate(limit);
    Ok(texts)
}
