//! Stage 1 from options to files: towers resolved, pairs read, the loop run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::input::{Side, TrainInput};
use super::options::{Method, QuerySide, TrainOptions};
use super::trainer::{export_checkpoint, train_decoder};
use crate::dataset::PairSet;
use crate::error::{Error, Result};
use crate::observe::Reporter;
use crate::store::named::read_whole;
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::train::files::place;
use crate::train::model::decoder::check_family;
use crate::train::pairs::{keep_answered, open_pairs};
use crate::train::report::TrainReport;
use crate::types::{Cancel, Digest256, Hasher256, hash_json};

/// Trains the towers as [`train_decoder`] says. Relative paths in `options` start from `base_dir`.
pub async fn train(
    options: &TrainOptions,
    base_dir: &Path,
    output: &Path,
    devices: Vec<DeviceSpec>,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TrainReport> {
    let run = Resolved::new(options, base_dir, reporter, cancel).await?;
    run.with(devices, |input| train_decoder(input, options, output, reporter, cancel))
}

/// Exports the adapter of a run that is still going, or was stopped, into `target`, as f32 or (`half`) as f16; gives
/// the steps it has taken.
pub async fn export(
    options: &TrainOptions,
    base_dir: &Path,
    output: &Path,
    target: &Path,
    half: bool,
    devices: Vec<DeviceSpec>,
    reporter: &Arc<dyn Reporter>,
) -> Result<u64> {
    let run = Resolved::new(options, base_dir, reporter, &Cancel::new()).await?;
    run.with(devices, |input| export_checkpoint(input, options, output, target, half))
}

impl TrainOptions {
    /// The query side's tower as it is before training: the document side's with the query's prompt, length, layers
    /// and adapter.
    pub fn query_tower(&self) -> TowerOptions {
        let QuerySide { prompt_prefix, prompt_suffix, max_tokens, layers, adapter, .. } =
            self.query.clone();
        TowerOptions {
            prompt_prefix: Some(prompt_prefix),
            prompt_suffix: Some(prompt_suffix),
            max_tokens: Some(max_tokens),
            layers: layers.or(self.tower.layers),
            adapter: adapter.or_else(|| self.tower.adapter.clone()),
            ..self.tower.clone()
        }
    }
}

struct Resolved {
    query: Tower,
    document: Tower,
    pairs: PairSet,
    /// The adapters to train further.
    adapter: Option<PathBuf>,
    query_adapter: Option<PathBuf>,
}

impl Resolved {
    async fn new(
        options: &TrainOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
        cancel: &Cancel,
    ) -> Result<Self> {
        options.validate()?;
        let (mut document, mut query) = (options.tower.clone(), options.query_tower());
        // Low-rank training goes on where the adapter stands; full training starts from the merged weights.
        let further = |method: &Method, tower: &mut TowerOptions| match method {
            Method::Lora(_) => {
                tower.adapter.take().map(|folder| place(&folder, base_dir)).transpose()
            }
            Method::Full(_) => Ok(None),
        };
        let adapter = further(&options.method, &mut document)?;
        let query_adapter = further(options.query_method(), &mut query)?;
        let document = Tower::resolve(&document, base_dir, reporter).await?;
        let query = Tower::resolve(&query, base_dir, reporter).await?;
        for tower in [&document, &query] {
            tower.config().map_or(Ok(()), check_family)?;
        }
        let mut pairs =
            open_pairs(&options.pairs, base_dir, options.seed, reporter, cancel).await?;
        keep_answered(&mut pairs, reporter)?;
        Ok(Self { query, document, pairs, adapter, query_adapter })
    }

    fn with<T>(
        &self,
        devices: Vec<DeviceSpec>,
        f: impl FnOnce(&TrainInput<'_>) -> Result<T>,
    ) -> Result<T> {
        let (Some(config), Some(weights), Some(query_weights)) =
            (self.document.config(), self.document.weights(), self.query.weights())
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
        let mut origin = Hasher256::new();
        for tower in [&self.document, &self.query] {
            origin.field(hash_json(&tower.space(Digest256::of(b"")))?.0);
        }
        for folder in [&self.adapter, &self.query_adapter] {
            // What is not there is told where it is opened.
            let file = folder.as_ref().map(|folder| folder.join("adapter_model.safetensors"));
            origin
                .field(file.and_then(|file| read_whole(&file, u64::MAX).ok()).unwrap_or_default());
        }
        f(&TrainInput {
            config,
            weights,
            query_weights,
            pairs: &self.pairs,
            tokenize: &tokenize,
            adapter: self.adapter.as_deref(),
            query_adapter: self.query_adapter.as_deref(),
            document: Some(&self.document),
            origin: origin.finish(),
            devices,
        })
    }
}
