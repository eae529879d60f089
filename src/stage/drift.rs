//! Fresh vectors against stored ones: the drift gate, `snapshot verify`, and the self-test before long jobs.

use std::collections::BTreeMap;

use super::ids::{Ids, Place};
use super::located::{self, Places};
use super::plan::{EncodeTask, Plan, RunSpec, ShardPlan};
use super::segments::is_damage;
use super::task::{TaskEnv, Worker};
use crate::corpus::PreparedReader;
use crate::embedding;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::Event;
use crate::stage::GateOptions;
use crate::store::Root;
use crate::tower::{Encoder, TowerTokenizer, pack};
use crate::types::{Arithmetic, TextHash};

/// A text whose vector is stored.
pub(crate) struct StoredText {
    pub text: String,
    pub place: Place,
}

/// The `limit` texts of a shard with the smallest hashes among those with a known place.
pub(crate) async fn sample(
    root: &Root,
    shard: &ShardPlan,
    places: &Places,
    limit: usize,
) -> Result<Vec<StoredText>> {
    let mut smallest: BTreeMap<TextHash, StoredText> = BTreeMap::new();
    let mut reader = PreparedReader::open(root, &shard.prepared).await?;
    while let Some(batch) = reader.next().await? {
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
    let tower = worker.tower(spec, env).await?;
    let mut loaded = worker.take_loaded(&tower)?;
    let mut stored = Vec::with_capacity(texts.len());
    for text in &texts {
        let vector =
            embedding::read_vectors(&env.root, &text.place.part, &[text.place.row]).await?;
        stored.push(vector.row(0).to_vec());
    }
    let tokenizer = tower.tokenizer().clone();
    let cancel = env.cancel.clone();
    let (loaded, least) = tokio::task::spawn_blocking(move || {
        let mut least = 1.0f64;
        let mut measure = || -> Result<()> {
            for (text, stored) in texts.iter().zip(&stored) {
                cancel.check()?;
                let tokens = tokenizer.tokenize(&text.text)?;
                let fresh = loaded.encoder.encode(&[&tokens.ids])?;
                least = least.min(cosine(fresh.row(0), stored));
            }
            Ok(())
        };
        let outcome = measure();
        (loaded, outcome.map(|()| least))
    })
    .await
    .map_err(|cause| Error::internal("re-encoding ended unexpectedly").with_source(cause))?;
    worker.give_back(loaded);
    least
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
        let mut places = located::read(&env.root, task.shard.located.as_ref()).await?;
        if let Some(parent) = &task.shard.parent {
            match Ids::of_shard(&env.root, &parent.shard).await {
                Ok(ids) => {
                    places.extend(ids.rows.into_iter().map(|row| (row.text_hash, row.place)));
                }
                // The build says so and goes on without the parent.
                Err(error) if is_damage(&error) => continue,
                Err(error) => return Err(error),
            }
        }
        texts.extend(sample(&env.root, &task.shard, &places, limit.div_ceil(tasks.len())).await?);
    }
    texts.truncate(limit);
    if texts.is_empty() {
        return Ok(None);
    }
    let compared = texts.len();
    let message =
        format!("comparing {compared} stored vectors with fresh ones before anything is encoded");
    env.reporter.event(Event::Info { message });
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
            Err(Error::new(
                ErrorKind::GateRefused,
                format!(
                    "drift: the tower changed under the same name: {compared} unchanged notes encoded again have a \
                     least cosine of {cosine:.6} to their stored vectors, at least {} is required; nothing was encoded. \
                     Restore the tower, its libraries or its device, encode everything into a new root, or go on \
                     with --override drift --reason TEXT",
                    1.0 - gates.max_drift
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// Encodes texts in packed batches and drops the vectors; returns their tokens. For measuring speed.
pub async fn encode_sample(
    spec: &RunSpec,
    texts: Vec<String>,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<u64> {
    let tower = worker.tower(spec, env).await?;
    let mut loaded = worker.take_loaded(&tower)?;
    let tokenizer = tower.tokenizer().clone();
    let (cancel, budget) = (env.cancel.clone(), spec.encode.token_budget);
    let (loaded, outcome) = tokio::task::spawn_blocking(move || {
        let mut encode = || -> Result<u64> {
            let mut sequences = Vec::with_capacity(texts.len());
            for text in &texts {
                sequences.push(tokenizer.tokenize(text)?.ids);
            }
            let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
            for batch in pack(&lengths, budget) {
                cancel.check()?;
                let batch: Vec<&[u32]> = batch.iter().map(|&at| sequences[at].as_slice()).collect();
                loaded.encoder.encode(&batch)?;
            }
            Ok(lengths.iter().map(|&n| u64::from(n)).sum())
        };
        let outcome = encode();
        (loaded, outcome)
    })
    .await
    .map_err(|cause| Error::internal("measuring speed ended unexpectedly").with_source(cause))?;
    worker.give_back(loaded);
    outcome
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut dot, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (&x, &y) in a.iter().zip(b) {
        dot += f64::from(x) * f64::from(y);
        aa += f64::from(x) * f64::from(x);
        bb += f64::from(y) * f64::from(y);
    }
    if aa == 0.0 || bb == 0.0 { 0.0 } else { dot / (aa.sqrt() * bb.sqrt()) }
}

/// Jobs of fewer tokens skip the self-test: it would take longer than it saves.
const SELF_TEST_FROM_TOKENS: u64 = 50_000;

/// Texts of very different lengths and scripts, encoded alone, packed together, and packed in reverse.
const SELF_TEST_TEXTS: [&str; 5] = [
    "a",
    "short note about bread",
    "笔记：番茄炒蛋要先炒蛋，再炒番茄，最后一起翻炒。",
    "A longer note, so that its neighbours in the batch lie at other offsets than when they stand alone: \
     the vector of a note must not depend on who travels with it, or the same note would get another vector \
     every day and the index would drift for no reason that anybody could see in the corpus.",
    "1234567890 !?#",
];

/// Batch invariance on the real device before a long job: the same vector alone, packed and reordered.
///
/// # Errors
/// Internal where vectors differ by more than 1e-5 (f32, int8), or their cosine is below 0.999 (bf16, f16, whose
/// kernels on a GPU change with the batch; on the processor they are exact too).
pub async fn self_test(plan: &Plan, worker: &mut Worker, env: &TaskEnv) -> Result<()> {
    let tokens: u64 = plan.encode.iter().map(|task| task.shard.tokens_to_encode).sum();
    if tokens < SELF_TEST_FROM_TOKENS {
        return Ok(());
    }
    let tower = worker.tower(&plan.spec, env).await?;
    let mut loaded = worker.take_loaded(&tower)?;
    let tokenizer = tower.tokenizer().clone();
    let arithmetic = plan.spec.space.arithmetic;
    let (loaded, outcome) = tokio::task::spawn_blocking(move || {
        let outcome = invariance(loaded.encoder.as_mut(), &tokenizer, arithmetic);
        (loaded, outcome)
    })
    .await
    .map_err(|cause| Error::internal("the self-test ended unexpectedly").with_source(cause))?;
    worker.give_back(loaded);
    let worst = outcome?;
    env.reporter.event(Event::Info {
        message: format!(
            "self-test: vectors do not depend on their batch (largest difference {worst:.1e})"
        ),
    });
    Ok(())
}

fn invariance(
    encoder: &mut dyn Encoder,
    tokenizer: &TowerTokenizer,
    arithmetic: Arithmetic,
) -> Result<f32> {
    let mut tokens = Vec::new();
    for text in SELF_TEST_TEXTS {
        tokens.push(tokenizer.tokenize(text)?.ids);
    }
    let forward: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let backward: Vec<&[u32]> = forward.iter().rev().copied().collect();
    let packed = encoder.encode(&forward)?;
    let reversed = encoder.encode(&backward)?;
    let mut worst = 0.0f32;
    for (at, sequence) in forward.iter().enumerate() {
        let alone = encoder.encode(&[sequence])?;
        for other in [packed.row(at), reversed.row(forward.len() - 1 - at)] {
            let difference =
                alone.row(0).iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            worst = worst.max(difference);
            let agrees = match arithmetic {
                // 8-bit sums are exact and activations quantised row by row.
                Arithmetic::F32 | Arithmetic::Int8 => difference <= 1e-5,
                Arithmetic::Bf16 | Arithmetic::F16 => cosine(alone.row(0), other) >= 0.999,
            };
            if !agrees {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!(
                        "self-test failed: a vector differs by {difference:.1e} between alone and packed; \
                         nothing was encoded. Please report this with `scalingnote --version` and the device"
                    ),
                ));
            }
        }
    }
    Ok(worst)
}
