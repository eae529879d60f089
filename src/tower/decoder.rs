//! Placeholder with the agreed signatures; the forward pass arrives from its own branch.

use candle_core::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::tower::{DecoderConfig, DeviceSpec, Encoder, WeightSource};
use crate::types::{Arithmetic, Embeddings, Pooling};

/// A loaded decoder.
pub struct Decoder {}

impl Decoder {
    /// Loads the weights.
    pub fn load(
        config: &DecoderConfig,
        weights: &dyn WeightSource,
        device: &DeviceSpec,
        arithmetic: Arithmetic,
        max_tokens: usize,
    ) -> Result<Self> {
        let _ = (config, weights, device, arithmetic, max_tokens);
        Err(Error::new(ErrorKind::Unsupported, "the forward pass is not part of this build"))
    }

    /// Final-norm states, `[total_tokens, hidden]`.
    pub fn hidden(&mut self, sequences: &[&[u32]]) -> Result<Tensor> {
        let _ = sequences;
        Err(Error::new(ErrorKind::Unsupported, "the forward pass is not part of this build"))
    }
}

struct DecoderEncoder(Decoder);

impl Encoder for DecoderEncoder {
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings> {
        self.0.hidden(sequences).map(|_| Embeddings::default())
    }
}

/// The encoder of a decoder.
pub fn decoder_encoder(
    decoder: Decoder,
    pooling: Pooling,
    dimensions: Option<u32>,
    normalize: bool,
) -> Box<dyn Encoder> {
    let _ = (pooling, dimensions, normalize);
    Box::new(DecoderEncoder(decoder))
}
