//! The quantisation scale and sign codes: fitted once per (space, index options) on a sample of vectors, then frozen.

use std::collections::BTreeMap;

use crate::embedding;
use crate::error::Result;
use crate::index::{self, Calibration};
use crate::stage::calibration::CalibrateReceipt;
use crate::stage::ids::Place;
use crate::stage::plan::CalibrateTask;
use crate::stage::vectors;
use crate::stage::worker::TaskEnv;
use crate::store::{Root, layout, receipt};
use crate::types::{Embeddings, SpaceId, TextHash, computing};

/// Vectors that the scale is fitted on, at most.
const SAMPLE: usize = 4096;

/// Fits the scale on the stored vectors with the smallest text hashes: the same sample whatever the order
/// and number of parts. The first calibration of a space and options is the one that counts.
pub(crate) async fn calibrate(task: &CalibrateTask, env: &TaskEnv) -> Result<CalibrateReceipt> {
    let spec = &task.spec;
    let key = layout::calibration(&spec.index.id()?, &spec.space_id);
    let work = async {
        let dimensions = spec.space.dimensions as usize;
        let sample = sample(&env.root, &spec.space_id, dimensions).await?;
        let calibration = match sample.is_empty() {
            true => Calibration::without_sample(&spec.index, dimensions),
            false => computing(|| index::calibrate(&sample, &spec.index))?,
        };
        Ok(CalibrateReceipt { id: task.id.clone(), calibration })
    };
    receipt::once(&env.root, &key, work).await
}

async fn sample(root: &Root, space: &SpaceId, dimensions: usize) -> Result<Embeddings> {
    let mut smallest: BTreeMap<TextHash, Place> = BTreeMap::new();
    for part in embedding::list_parts(root, space, None).await? {
        for (hash, place) in vectors::places_in(root, &part).await? {
            smallest.entry(hash).or_insert(place);
            if smallest.len() > SAMPLE {
                smallest.pop_last();
            }
        }
    }
    vectors::gather(root, dimensions, smallest.values()).await
}
