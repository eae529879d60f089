//! How fast a device encodes the texts of a plan, for estimates of time.

use std::time::Instant;

use crate::corpus::PreparedReader;
use crate::error::Result;
use crate::stage::{Plan, TaskEnv, Worker, encode_sample};

/// Texts that the calibration encodes, at most; their time is not kept.
const CALIBRATION_TEXTS: usize = 32;

/// Tokens per second of this device on the first texts of the plan; `None` where nothing is to be encoded.
pub(crate) async fn measure_speed(
    plan: &Plan,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<Option<f64>> {
    let Some(task) = plan.encode.first() else { return Ok(None) };
    let mut reader = PreparedReader::open(&env.root, &task.shard.prepared).await?;
    let mut texts = Vec::new();
    while let Some(batch) = reader.next().await? {
        texts.extend(batch.rows.into_iter().filter(|row| !row.deleted).map(|row| row.text));
        if texts.len() >= CALIBRATION_TEXTS {
            break;
        }
    }
    texts.truncate(CALIBRATION_TEXTS);
    // Once to load the weights and touch their pages, once to measure.
    encode_sample(&plan.spec, texts.iter().take(1).cloned().collect(), worker, env).await?;
    let started = Instant::now();
    let tokens = encode_sample(&plan.spec, texts, worker, env).await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok((tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds))
}
