//! Making towers, one call each: [`train`] and [`export`] (stage 1), [`mine`] between its rounds, [`whiten`] behind it, [`distill`] and
//! [`pack`] (stage 2), and [`evaluate`] for all of them. Each encodes what it needs by the pipeline's own encode stage and keeps
//! the vectors in its folder.

mod distill;
mod evaluate;
mod mine;
mod pack;
mod teacher;
mod train;
mod whiten;

use std::path::PathBuf;
use std::sync::Arc;

pub use distill::distill;
pub use evaluate::{EvaluateRequest, Judged, Versus, evaluate};
pub use mine::{MineRequest, Mined, Ranking, mine};
pub use pack::{PackRequest, Packed, pack};
pub use train::{export, train};
pub use whiten::{WhitenRequest, Whitened, whiten};

// What these functions take and give.
#[doc(inline)]
pub use crate::evaluate::{EvaluateOptions, Evaluation, Latency};
#[doc(inline)]
pub use crate::train::{
    DistillOptions, MineOptions, MineReport, PackOptions, TrainOptions, TrainReport, WhitenOptions,
};

use super::tasks::encode_texts;
use crate::error::Result;
use crate::observe::Reporter;
use crate::stage::EncodeOptions;
use crate::tower::{DeviceSpec, TowerOptions};
use crate::types::{Cancel, EmbeddingSpace, Embeddings};

/// Where a tower is made, on what, and who watches.
#[derive(Clone)]
pub struct LearnContext {
    /// Relative paths in a recipe's options start here.
    pub base_dir: PathBuf,
    /// The folder of the run: checkpoints, vectors, the result. What an interrupted run left in it is resumed.
    pub folder: PathBuf,
    /// Stage 1 shares its batches among them; everything else computes on the first.
    pub devices: Vec<DeviceSpec>,
    /// Told of progress and warnings.
    pub reporter: Arc<dyn Reporter>,
    /// Ends the call with a Cancelled error; a run in `folder` can be resumed.
    pub cancel: Cancel,
}

impl LearnContext {
    /// Vectors of texts, `[texts, dimensions]`, kept below `folder` under `name`.
    async fn encode(
        &self,
        tower: &TowerOptions,
        texts: &[&str],
        name: &str,
    ) -> Result<(Embeddings, EmbeddingSpace)> {
        let devices = self.devices.iter().map(ToString::to_string).collect();
        let encode = EncodeOptions { devices, ..EncodeOptions::default() };
        let folder = self.folder.join(name);
        let (reporter, cancel) = (&self.reporter, &self.cancel);
        encode_texts(tower, &self.base_dir, texts, &encode, &folder, reporter, cancel).await
    }
}
