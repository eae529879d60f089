//! How fast a device encodes the texts of a plan, for estimates of time.

use std::time::Instant;

use crate::error::Result;
use crate::stage::{Planned, TaskEnv, Worker, encode_sample};

/// Tokens per second of this device on at most `most` of the plan's first texts, whose vectors are not kept; `None` where
/// nothing is to be encoded.
pub(crate) async fn measure_speed(
    planned: &Planned,
    most: usize,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<Option<f64>> {
    let (spec, sample) = (&planned.plan.spec, &planned.sample);
    let Some(first) = sample.first() else { return Ok(None) };
    // Once to load the weights and touch their pages, once to measure.
    encode_sample(spec, vec![first.clone()], worker, env).await?;
    let started = Instant::now();
    let texts = sample.iter().take(most).cloned().collect();
    let tokens = encode_sample(spec, texts, worker, env).await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok((tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds))
}
