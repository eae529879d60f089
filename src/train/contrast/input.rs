//! What a run of stage 1 is given.

use std::path::Path;

use super::batch::Batch;
use super::data::TrainData;
use super::options::TrainOptions;
use super::teacher::TeacherVectors;
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

/// Turns a text of a side, that a source of this number shows, into token ids, prompt included. Sources count pairs first,
/// then plain texts.
pub type Tokenize<'a> = dyn Fn(Side, u32, &str) -> Result<Vec<u32>> + Sync + 'a;

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
    /// The texts.
    pub data: &'a TrainData,
    /// What the teacher makes of them.
    pub teacher: Option<&'a TeacherVectors>,
    /// Tokenizer of both sides.
    pub tokenize: &'a Tokenize<'a>,
    /// A LoRA adapter (PEFT folder) to train further; `weights` are without it.
    pub adapter: Option<&'a Path>,
    /// The same for a query side of its own.
    pub query_adapter: Option<&'a Path>,
    /// Where the paths of a query side's encoder start.
    pub base_dir: &'a Path,
    /// The document tower: its space, with what is trained here, goes with a query side of its own.
    pub document: Option<&'a Tower>,
    /// Names what all of this is read from, beside texts and options: towers, tokenizers, adapters, the teacher's files.
    pub origin: Digest256,
    /// Where to compute: one device, or several that share every batch. Parameters and optimizer live on the first.
    pub devices: Vec<DeviceSpec>,
}

impl TrainInput<'_> {
    /// Names a run by all that decides its losses: options, what it starts from, texts.
    pub(super) fn digest(&self, options: &TrainOptions) -> Result<Digest256> {
        let mut hasher = Hasher256::new();
        hasher.field(options.digest()?.0).field(self.origin.0);
        for PairSet { pairs, documents, .. } in
            [&self.data.pairs].into_iter().chain(&self.data.held_out)
        {
            for pair in pairs {
                hasher.field(&pair.query).field(&documents[pair.document as usize]);
                hasher.field(pair.weight.to_le_bytes()).field(pair.negatives.len().to_le_bytes());
                for negative in &pair.negatives {
                    hasher.field(&documents[*negative as usize]);
                }
                pair.margins.iter().for_each(|margin| {
                    hasher.field(margin.to_le_bytes());
                });
            }
        }
        for text in self.data.texts.sources.iter().flatten() {
            hasher.field(text);
        }
        Ok(hasher.finish())
    }

    /// Where parameters and optimizer live.
    pub(super) fn first_device(&self) -> Result<&DeviceSpec> {
        self.devices.first().ok_or_else(|| Error::config("training needs a device"))
    }

    /// Token ids of a batch: queries, then documents.
    pub(super) fn tokens(
        &self,
        batch: &Batch,
        options: &TrainOptions,
    ) -> Result<(Sequences, Sequences)> {
        let [queries, documents] = batch.shown(self.data, options);
        let ids = |side: Side, texts: Vec<(u32, &str)>| -> Result<Sequences> {
            texts.into_iter().map(|(source, text)| (self.tokenize)(side, source, text)).collect()
        };
        Ok((ids(Side::Query, queries)?, ids(Side::Document, documents)?))
    }
}
