//! Stage 1 from options to files: towers resolved, pairs read, the loop run.

use std::path::Path;
use std::sync::Arc;

use super::options::TrainOptions;
use super::report::TrainReport;
use super::trainer::{Side, TrainInput, export_checkpoint, train_decoder};
use crate::dataset::PairSet;
use crate::error::{Error, Result};
use crate::observe::Reporter;
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::types::Cancel;

/// Trains the towers as [`train_decoder`] says. Relative paths in `options` start from `base_dir`.
pub async fn train(
    options: &TrainOptions,
    base_dir: &Path,
    output: &Path,
    device: DeviceSpec,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TrainReport> {
    let run = Resolved::new(options, base_dir, reporter).await?;
    run.with(device, |input| train_decoder(input, options, output, reporter, cancel))
}

/// Exports the adapter of a run that is still going, or was stopped, into `target`, as f32 or (`half`) as f16; gives
/// the steps it has taken.
pub async fn export(
    options: &TrainOptions,
    base_dir: &Path,
    output: &Path,
    target: &Path,
    half: bool,
    device: DeviceSpec,
    reporter: &Arc<dyn Reporter>,
) -> Result<u64> {
    let run = Resolved::new(options, base_dir, reporter).await?;
    run.with(device, |input| export_checkpoint(input, options, output, target, half))
}

impl TrainOptions {
    /// The query side's tower: the document side's with the query prompt and length.
    pub fn query_tower(&self) -> TowerOptions {
        TowerOptions {
            prompt_prefix: self.query.prompt_prefix.clone(),
            prompt_suffix: self.query.prompt_suffix.clone(),
            max_tokens: self.query.max_tokens,
            ..self.tower.clone()
        }
    }
}

struct Resolved {
    query: Tower,
    document: Tower,
    pairs: PairSet,
}

impl Resolved {
    async fn new(
        options: &TrainOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Self> {
        options.validate()?;
        let pairs = PairSet::open(&options.pairs, base_dir, options.seed)?;
        let document = Tower::resolve(&options.tower, base_dir, reporter).await?;
        let query = Tower::resolve(&options.query_tower(), base_dir, reporter).await?;
        Ok(Self { query, document, pairs })
    }

    fn with<T>(
        &self,
        device: DeviceSpec,
        f: impl FnOnce(&TrainInput<'_>) -> Result<T>,
    ) -> Result<T> {
        let (Some(config), Some(weights)) = (self.document.config(), self.document.weights())
        else {
            return Err(Error::config("tower.model must be a decoder LLM to be trained"));
        };
        let tokenize = |side: Side, text: &str| {
            let tower = match side {
                Side::Query => &self.query,
                Side::Document => &self.document,
            };
            Ok(tower.tokenizer().tokenize(text)?.ids)
        };
        f(&TrainInput { config, weights, pairs: &self.pairs, tokenize: &tokenize, device })
    }
}
