//! What a run of stage 1 is given.

use std::path::Path;

use super::batch::Batch;
use super::options::TrainOptions;
use crate::dataset::PairSet;
use crate::error::{Error, Result};
use crate::tower::{DecoderConfig, DeviceSpec, Tower, WeightSource};
use crate::types::{Digest256, Hasher256};

/// Which tower a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The query tower.
    Query,
    /// The document tower.
    Document,
}

/// Turns a text of a side into token ids, prompt included.
pub type Tokenize<'a> = dyn Fn(Side, &str) -> Result<Vec<u32>> + Sync + 'a;

/// Token ids of several texts.
type Sequences = Vec<Vec<u32>>;

/// The model and the data of a run.
pub struct TrainInput<'a> {
    /// Architecture.
    pub config: &'a DecoderConfig,
    /// Weights to start from.
    pub weights: &'a dyn WeightSource,
    /// Weights that a query side of its own starts from.
    pub query_weights: &'a dyn WeightSource,
    /// The pairs.
    pub pairs: &'a PairSet,
    /// Tokenizer of both sides.
    pub tokenize: &'a Tokenize<'a>,
    /// A LoRA adapter (PEFT folder) to train further; `weights` are without it.
    pub adapter: Option<&'a Path>,
    /// The same for a query side of its own.
    pub query_adapter: Option<&'a Path>,
    /// The document tower: its space, with what is trained here, goes with a query side of its own.
    pub document: Option<&'a Tower>,
    /// Names what all of this is read from, beside pairs and options: towers, tokenizers, adapters.
    pub origin: Digest256,
    /// Where to compute: one device, or several that share every batch. Parameters and optimizer live on the first.
    pub devices: Vec<DeviceSpec>,
}

impl TrainInput<'_> {
    /// Names a run by all that decides its losses: options, what it starts from, pairs.
    pub(super) fn digest(&self, options: &TrainOptions) -> Result<Digest256> {
        let mut hasher = Hasher256::new();
        hasher.field(options.digest()?.0).field(self.origin.0);
        let PairSet { pairs, documents, .. } = self.pairs;
        for pair in pairs {
            hasher.field(&pair.query).field(&documents[pair.document as usize]);
            hasher.field(pair.weight.to_le_bytes()).field(pair.negatives.len().to_le_bytes());
            for negative in &pair.negatives {
                hasher.field(&documents[*negative as usize]);
            }
        }
        Ok(hasher.finish())
    }

    /// Where parameters and optimizer live.
    pub(super) fn first_device(&self) -> Result<&DeviceSpec> {
        self.devices.first().ok_or_else(|| Error::config("training needs a device"))
    }

    /// Token ids of a batch: queries, then documents.
    pub(super) fn tokens(&self, batch: &Batch) -> Result<(Sequences, Sequences)> {
        let PairSet { pairs, documents, .. } = self.pairs;
        let queries = batch
            .pairs
            .iter()
            .map(|at| (self.tokenize)(Side::Query, &pairs[*at as usize].query))
            .collect::<Result<_>>()?;
        let documents = batch
            .documents
            .iter()
            .map(|at| (self.tokenize)(Side::Document, &documents[*at as usize]))
            .collect::<Result<_>>()?;
        Ok((queries, documents))
    }
}
