//! Fresh vectors against stored ones: the drift gate and `snapshot verify`.

use std::collections::BTreeMap;

use futures::TryStreamExt;

use crate::error::{Error, Result};
use crate::stage::GateOptions;
use crate::stage::ids::Place;
use crate::stage::options::OVERRIDE_DRIFT;
use crate::stage::plan::{EncodeTask, RunSpec, ShardPlan};
use crate::stage::vectors::{Places, gather};
use crate::stage::worker::{Loaded, TaskEnv, Worker};
use crate::tower::TowerTokenizer;
use crate::types::TextHash;

/// A text whose vector is stored.
pub(crate) struct StoredText {
    pub text: String,
    pub place: Place,
}

/// The `limit` texts of a shard with the smallest hashes among those with a known place.
pub(crate) async fn sample(
    env: &TaskEnv,
    shard: &ShardPlan,
    places: &Places,
    limit: usize,
) -> Result<Vec<StoredText>> {
    let mut smallest: BTreeMap<TextHash, StoredText> = BTreeMap::new();
    let mut batches = env.inputs.prepared(&env.root, &shard.prepared).await?;
    while let Some(batch) = batches.try_next().await? {
        for row in batch.rows {
            // A text that was left out cannot be encoded again; the smallest hashes are kept.
            let Some(place) = places.get(&row.text_hash).filter(|_| !row.text.is_empty()) else {
                continue;
            };
            smallest.insert(row.text_hash, StoredText { text: row.text, place: place.clone() });
            if smallest.len() > limit {
                smallest.pop_last();
            }
        }
    }
    Ok(smallest.into_values().collect())
}

/// Encodes the texts again and returns the least cosine to their stored vectors.
pub(crate) async fn least_cosine(
    texts: Vec<StoredText>,
    spec: &RunSpec,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<f64> {
    let places = texts.iter().map(|text| &text.place);
    let stored = gather(&env.root, spec.space.dimensions as usize, places).await?;
    let cancel = env.cancel.clone();
    let measure = move |loaded: &mut Loaded, tokenizer: &TowerTokenizer| {
        let mut least = 1.0f64;
        for (text, stored) in texts.iter().zip(stored.rows()) {
            cancel.check()?;
            let tokens = tokenizer.tokenize(&text.text)?;
            let fresh = loaded.encoder.encode(&[&tokens.ids])?;
            least = least.min(cosine(fresh.row(0), stored));
        }
        Ok(least)
    };
    worker.compute(spec, env, "re-encoding", measure).await?
}

/// The drift gate's measurement, of unchanged notes of the shards that `tasks` encode anything for: the least cosine of
/// fresh to stored vectors and how many were compared. To be taken before anything is encoded: vectors of a changed
/// tower must not get into the parts of the space, where later runs would take them from.
pub async fn measure_drift(
    gates: &GateOptions,
    tasks: &[EncodeTask],
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<Option<(f64, usize)>> {
    let limit = gates.drift_sample as usize;
    let Some(first) = tasks.first().filter(|_| limit > 0) else { return Ok(None) };
    let mut texts = Vec::new();
    for task in tasks {
        if texts.len() >= limit {
            break;
        }
        let places = env.stored(&task.shard).await?;
        if !places.is_empty() {
            texts.extend(sample(env, &task.shard, &places, limit.div_ceil(tasks.len())).await?);
        }
    }
    texts.truncate(limit);
    if texts.is_empty() {
        return Ok(None);
    }
    let compared = texts.len();
    let message =
        format!("comparing {compared} stored vectors with fresh ones before anything is encoded");
    env.reporter.info(message);
    Ok(Some((least_cosine(texts, &first.spec, worker, env).await?, compared)))
}

/// Refuses to encode with a tower that changed under its name, unless a person decided otherwise.
///
/// # Errors
/// GateRefused.
pub fn refuse_drift(
    drift: Option<(f64, usize)>,
    gates: &GateOptions,
    overridden: bool,
) -> Result<()> {
    match drift {
        Some((cosine, compared)) if cosine < 1.0 - gates.max_drift && !overridden => {
            let refused = Error::refused(format!(
                "drift: the tower changed under the same name: {compared} unchanged notes encoded again have a \
                 least cosine of {cosine:.6} to their stored vectors, at least {} is required; nothing was encoded. \
                 Restore the tower, its libraries or its device, or encode everything into a new root",
                1.0 - gates.max_drift
            ));
            Err(refused.with_hint(OVERRIDE_DRIFT))
        }
        _ => Ok(()),
    }
}

pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut dot, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (&x, &y) in a.iter().zip(b) {
        dot += f64::from(x) * f64::from(y);
        aa += f64::from(x) * f64::from(x);
        bb += f64::from(y) * f64::from(y);
    }
    if aa == 0.0 || bb == 0.0 { 0.0 } else { dot / (aa.sqrt() * bb.sqrt()) }
}
