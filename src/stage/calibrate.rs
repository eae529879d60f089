//! The quantisation scale: fitted once per (space, index options) on a sample of vectors, then frozen.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::CalibrateTask;
use super::task::{TaskEnv, put_receipt, read_receipt};
use crate::embedding;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{self, Calibration, IndexOptions};
use crate::store::{Root, layout};
use crate::types::{Embeddings, SpaceId, TextHash};

/// Vectors that the scale is fitted on, at most.
const SAMPLE: usize = 4096;

/// What a calibration decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrateReceipt {
    /// Task id.
    pub id: String,
    /// The frozen scale.
    pub calibration: Calibration,
}

/// Fits the scale on the stored vectors with the smallest text hashes: the same sample whatever the order
/// and number of parts. The first calibration of a space and options is the one that counts.
pub(crate) async fn execute(task: &CalibrateTask, env: &TaskEnv) -> Result<CalibrateReceipt> {
    let spec = &task.spec;
    let key = layout::calibration(&spec.index.id()?, &spec.space_id);
    if let Some(receipt) = read_receipt(&env.root, &key).await? {
        return Ok(receipt);
    }
    let sample = sample(&env.root, &spec.space_id, spec.space.dimensions as usize).await?;
    let calibration = fit(&sample, &spec.index)?;
    put_receipt(&env.root, &key, CalibrateReceipt { id: task.id.clone(), calibration }).await
}

/// The frozen scale; an error where the calibration has not run.
pub(crate) async fn frozen(
    root: &Root,
    options: &IndexOptions,
    space: &SpaceId,
) -> Result<Calibration> {
    let key = layout::calibration(&options.id()?, space);
    match read_receipt::<CalibrateReceipt>(root, &key).await? {
        Some(receipt) => Ok(receipt.calibration),
        None => Err(Error::new(
            ErrorKind::Transient,
            format!("{key} is not there yet: the calibrate task comes before every build task"),
        )),
    }
}

fn fit(sample: &Embeddings, options: &IndexOptions) -> Result<Calibration> {
    if sample.is_empty() {
        return Ok(Calibration { scale: 1.0, sample: 0, clipped: 0.0 });
    }
    index::calibrate(sample, options)
}

async fn sample(root: &Root, space: &SpaceId, dimensions: usize) -> Result<Embeddings> {
    let parts = embedding::list_parts(root, space, None).await?;
    let mut smallest: BTreeMap<TextHash, (usize, u32)> = BTreeMap::new();
    for (at, part) in parts.iter().enumerate() {
        for (row, hash) in embedding::read_text_hashes(root, part).await?.into_iter().enumerate() {
            smallest.entry(hash).or_insert((at, row as u32));
            if smallest.len() > SAMPLE {
                smallest.pop_last();
            }
        }
    }
    let mut by_part: BTreeMap<usize, Vec<(TextHash, u32)>> = BTreeMap::new();
    for (hash, (part, row)) in smallest {
        by_part.entry(part).or_default().push((hash, row));
    }
    let mut vectors: BTreeMap<TextHash, Vec<f32>> = BTreeMap::new();
    for (part, rows) in by_part {
        let wanted: Vec<u32> = rows.iter().map(|(_, row)| *row).collect();
        let read = embedding::read_vectors(root, &parts[part].file.path, &wanted).await?;
        for ((hash, _), vector) in rows.into_iter().zip(read.rows()) {
            vectors.insert(hash, vector.to_vec());
        }
    }
    let mut sample = Embeddings::with_capacity(dimensions, vectors.len());
    vectors.values().for_each(|vector| sample.push(vector));
    Ok(sample)
}
