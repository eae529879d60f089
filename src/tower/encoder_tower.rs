//! An encoder as a tower: what ready-made small embedders are, and what a distilled query tower is.
//!
//! Its layers are our kernels, because a query of a dozen tokens is over before a product has packed its weights.

use crate::error::{Error, Result};
use crate::kernel::Isa;
use crate::tower::cpu::CpuEncoder;
use crate::tower::files::safetensors::SafetensorsWeights;
use crate::tower::model::encoder_config::EncoderConfig;
use crate::tower::model::encoder_weights::EncoderWeights;
use crate::tower::model::layer_weights::floats;
use crate::tower::model::shape::Shape;
use crate::tower::{Encoder, WeightSource};
use crate::types::{Arithmetic, Embeddings, Pooling};

/// A loaded encoder on the processor.
pub(crate) struct EncoderTower {
    model: CpuEncoder,
    vectors: Shape,
    max_positions: usize,
    vocabulary: usize,
}

impl EncoderTower {
    /// Loads the weights. `vectors` says what becomes of a pooled state; `threads` 0: all of the machine.
    ///
    /// # Errors
    /// Input where a tensor is missing or of another shape; Unsupported for f16.
    pub(crate) fn load(
        config: &EncoderConfig,
        weights: &SafetensorsWeights,
        pooling: Pooling,
        vectors: Shape,
        threads: usize,
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let read = |name: &str, shape: &[usize]| {
            floats(weights, &stored(weights, config.names.prefix, name), shape)
        };
        let weights = EncoderWeights { config, read: &read };
        Ok(Self {
            model: CpuEncoder::load(&weights, pooling, threads, Isa::best(), arithmetic)?,
            vectors,
            max_positions: config.max_positions,
            vocabulary: config.vocab_size,
        })
    }
}

/// Looks for every tensor of an encoder, without reading any.
///
/// # Errors
/// Input for one that is missing or of another shape, Unsupported for one of a type that cannot be read; each names file and
/// tensor.
pub(crate) fn check(config: &EncoderConfig, weights: &SafetensorsWeights) -> Result<()> {
    let look = |name: &str, shape: &[usize]| {
        weights.check(&stored(weights, config.names.prefix, name), shape).map(|()| Vec::new())
    };
    let wanted = EncoderWeights { config, read: &look };
    wanted.words()?;
    wanted.positions()?;
    wanted.norm()?;
    wanted.last_norm()?;
    wanted.relative()?;
    (0..config.layers).try_for_each(|at| wanted.layer(at).map(drop))
}

/// The name under which a tensor is stored: with the family's prefix or without; norms of older files, as TensorFlow
/// called them.
fn stored(weights: &SafetensorsWeights, prefix: &str, name: &str) -> String {
    let older = name
        .strip_suffix("LayerNorm.weight")
        .map(|norm| format!("{norm}LayerNorm.gamma"))
        .or_else(|| Some(format!("{}LayerNorm.beta", name.strip_suffix("LayerNorm.bias")?)));
    [Some(name.to_owned()), older]
        .into_iter()
        .flatten()
        .flat_map(|name| [format!("{prefix}{name}"), name])
        .find(|name| weights.contains(name))
        .unwrap_or_else(|| name.to_owned())
}

impl Encoder for EncoderTower {
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings> {
        for sequence in sequences {
            if sequence.is_empty() || sequence.len() > self.max_positions {
                return Err(Error::input(format!(
                    "a text of {} tokens, where the encoder takes 1 to {}",
                    sequence.len(),
                    self.max_positions
                )));
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= self.vocabulary) {
                return Err(Error::input(format!(
                    "token {id}, where the encoder knows {}",
                    self.vocabulary
                )));
            }
        }
        Ok(self.vectors.vectors(&self.model.run(sequences)))
    }
}
