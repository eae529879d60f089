//! The document tower: a packed decoder LLM on candle, its tokenizer, and where both come from.

mod adapter;
mod bert;
#[cfg(test)]
mod bert_tests;
mod config;
mod cpu;
mod cut;
mod decoder;
mod fake;
mod files;
mod gguf;
mod gguf_config;
mod gguf_tokenizer;
mod hub;
mod layer_weights;
mod options;
mod pack;
mod packed;
mod pool;
mod resolve;
mod rope;
mod safetensors;
mod source;
mod tensor;
#[cfg(test)]
mod testing;
mod tokenizer;
mod trained;
mod weights;

use crate::error::Result;
use crate::types::Embeddings;

pub use decoder::{Decoder, decoder_encoder, open_cuda};
pub use options::{DeviceSpec, TowerOptions};
pub use pack::pack;
pub use packed::{KEY as PACKED_KEY, Packed, Parts};
pub use resolve::Tower;
pub(crate) use safetensors::SafetensorsFile;
pub use tokenizer::{Tokenized, TowerTokenizer};
pub use trained::Exported;
pub(crate) use trained::check_tokenizer;

/// A loaded tower on one device. One per worker thread.
pub trait Encoder: Send + Sync {
    /// Encodes sequences packed without padding; row i belongs to sequence i. Pooled, cut to the Matryoshka
    /// dimensions and normalised. The result of a sequence does not depend on its neighbours.
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings>;

    /// Hands a batch over and comes back while a device still computes it, where there is one: the next batch may be
    /// started before this one's vectors are asked for, so that the device never waits. By default it is encoded here
    /// and now.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; Resource, where the device's memory does not hold the batch: a smaller one may fit.
    fn start(&mut self, sequences: &[&[u32]]) -> Result<Started> {
        self.encode(sequences).map(Started::Done)
    }
}

/// A batch that was handed over.
pub enum Started {
    /// Its vectors are there.
    Done(Embeddings),
    /// A device computes it.
    Running(Box<dyn Running>),
}

/// A batch on a device.
pub trait Running {
    /// Waits for its vectors, and for no batch that was started after it.
    ///
    /// # Errors
    /// As [`Encoder::start`].
    fn finish(self: Box<Self>) -> Result<Embeddings>;
}

/// Architecture of a decoder LLM, whatever file it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Model family, as `model_type` or `general.architecture` says: `llama`, `qwen2`, `qwen3`, `mistral`.
    pub family: String,
    /// Vocabulary size.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of one head (not always hidden_size / heads).
    pub head_dim: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Per-frequency divisors from `rope_scaling` (llama3, linear), `[head_dim / 2]`; `None` for plain RoPE.
    pub rope_factors: Option<Vec<f32>>,
    /// Whether q, k and v have a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether q and k heads are RMS-normalised (Qwen3).
    pub qk_norm: bool,
    /// Longest position the model was made for.
    pub max_positions: usize,
}

/// Gives weight tensors by their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`, ...) as
/// contiguous f32 on the CPU, rotary halves in Hugging Face (non-interleaved) order, adapter merged.
/// Reads lazily from the file: nothing is held after the call.
pub trait WeightSource: Send + Sync {
    /// The tensor, checked against `shape`.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<candle_core::Tensor>;
    /// Whether such a tensor exists.
    fn contains(&self, name: &str) -> bool;
    /// The tensor's Q8_0 blocks as GGUF stores them, rows in the same order as [`WeightSource::tensor`] gives
    /// them; `None` where it is not kept so. Checked against `shape`, `[rows, width]`.
    fn q8_0(&self, _name: &str, _shape: &[usize; 2]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
