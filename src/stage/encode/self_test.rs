//! Trying a device before a long job: how fast it is, and whether its vectors depend on their batch.

use super::drift::cosine;
use crate::error::{Error, Result};
use crate::stage::plan::{Plan, RunSpec};
use crate::stage::worker::{Loaded, TaskEnv, Worker};
use crate::tower::{DeviceSpec, Encoder, TowerTokenizer, pack};
use crate::types::Arithmetic;

/// Encodes token ids of texts in packed batches and drops the vectors; returns how many tokens. For measuring speed.
pub async fn encode_sample(
    spec: &RunSpec,
    sequences: Vec<Vec<u32>>,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<u64> {
    let (cancel, budget) = (env.cancel.clone(), spec.encode.token_budget);
    let encode = move |loaded: &mut Loaded, _: &TowerTokenizer| {
        let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
        for batch in pack(&lengths, budget) {
            cancel.check()?;
            let batch: Vec<&[u32]> = batch.iter().map(|&at| sequences[at].as_slice()).collect();
            loaded.encoder.encode(&batch)?;
        }
        Ok(lengths.iter().map(|&n| u64::from(n)).sum())
    };
    worker.compute(spec, env, "measuring speed", encode).await?
}

/// Jobs of fewer tokens skip the self-test: it would take longer than it saves.
const SELF_TEST_FROM_TOKENS: u64 = 50_000;

/// Texts of very different lengths and scripts, encoded alone, packed together, and packed in reverse.
const SELF_TEST_TEXTS: [&str; 5] = [
    "a",
    "short note about bread",
    "笔记：番茄炒蛋要先炒蛋，再炒番茄，最后一起翻炒。",
    "A longer note, so that its neighbours in the batch are at other offsets than when they stand alone: \
     the vector of a note must not depend on who travels with it, or the same note would get another vector \
     every day and the index would drift for no reason that anybody could see in the corpus.",
    "1234567890 !?#",
];

/// Batch invariance on the real device before a long job: the same vector alone, packed and reordered.
///
/// # Errors
/// Internal where vectors differ by more than 1e-5 (f32, int8), or their cosine is below 0.999 (bf16, f16); on a GPU,
/// whose kernels change with the batch, below 0.999999 in f32.
pub async fn self_test(plan: &Plan, worker: &mut Worker, env: &TaskEnv) -> Result<()> {
    let tokens: u64 = plan.encode.iter().map(|task| task.shard.tokens_to_encode).sum();
    if tokens < SELF_TEST_FROM_TOKENS {
        return Ok(());
    }
    let least = match (plan.spec.space.arithmetic, &worker.device) {
        (Arithmetic::Bf16 | Arithmetic::F16, _) => Some(0.999),
        (Arithmetic::F32, DeviceSpec::Cuda(_)) => Some(0.999999),
        // On the processor 8-bit sums are exact, and activations quantised row by row.
        (Arithmetic::F32 | Arithmetic::Int8, _) => None,
    };
    let test = move |loaded: &mut Loaded, tokenizer: &TowerTokenizer| {
        invariance(loaded.encoder.as_mut(), tokenizer, least)
    };
    let worst = worker.compute(&plan.spec, env, "the self-test", test).await??;
    env.reporter.info(format!(
        "self-test: vectors do not depend on their batch (largest difference {worst:.1e})"
    ));
    Ok(())
}

/// The largest difference. `least` is the smallest cosine that passes; without it elements differ by 1e-5 at most.
fn invariance(
    encoder: &mut dyn Encoder,
    tokenizer: &TowerTokenizer,
    least: Option<f64>,
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
            let agrees = match least {
                None => difference <= 1e-5,
                Some(least) => cosine(alone.row(0), other) >= least,
            };
            if !agrees {
                return Err(Error::internal(format!(
                    "self-test failed: a vector differs by {difference:.1e} between alone and packed; \
                     nothing was encoded. Please report this with `scalingnote --version` and the device"
                )));
            }
        }
    }
    Ok(worst)
}
