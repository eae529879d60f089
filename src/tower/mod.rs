//! The document tower: a packed decoder LLM on candle, its tokenizer, and where both come from.

mod cpu;
mod decoder;
mod pack;
mod pool;
mod rope;
mod tensor;
mod layer_weights;

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::observe::Reporter;
use crate::types::{Arithmetic, Digest256, EmbeddingSpace, Embeddings, Pooling};

pub use self::decoder::{Decoder, decoder_encoder};
pub use self::pack::pack;

/// Which tower, and how its vectors come about. Everything here is identity (it becomes an
/// [`EmbeddingSpace`]), except where the files are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TowerOptions {
    /// A `.gguf` or `.safetensors` file, a directory (`config.json`, `tokenizer.json`, one or many
    /// safetensors), a Hugging Face repo id (`org/name`), or `fake:<dimensions>` for tests.
    pub model: String,
    /// Git revision of a Hugging Face repo.
    #[serde(default)]
    pub revision: Option<String>,
    /// A `tokenizer.json`; by default beside the weights or rebuilt from GGUF metadata.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// LoRA adapter (PEFT directory or safetensors file), merged at load.
    #[serde(default)]
    pub adapter: Option<String>,
    /// How token states become one vector.
    pub pooling: Pooling,
    /// Text before every note.
    #[serde(default)]
    pub prompt_prefix: String,
    /// Text after every note; never cut off.
    #[serde(default)]
    pub prompt_suffix: String,
    /// Matryoshka cut: keep the first so many dimensions. Default: all.
    #[serde(default)]
    pub dimensions: Option<u32>,
    /// Scale vectors to unit length.
    #[serde(default = "yes")]
    pub normalize: bool,
    /// Longest sequence in tokens, prompt included.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// Class of arithmetic.
    #[serde(default = "default_arithmetic")]
    pub arithmetic: Arithmetic,
}

fn yes() -> bool {
    true
}

fn default_max_tokens() -> u32 {
    512
}

fn default_arithmetic() -> Arithmetic {
    Arithmetic::F32
}

/// Where a worker computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSpec {
    /// This machine's processor with so many threads (0: all).
    Cpu {
        /// Threads; 0 for all.
        threads: usize,
    },
    /// A CUDA device by number (feature `cuda`).
    Cuda(usize),
}

/// A tokenised text, prompt included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the text was cut to fit `max_tokens`.
    pub truncated: bool,
}

/// Turns texts into token ids exactly as the tower wants them. Cheap to clone, one per thread.
#[derive(Clone)]
pub struct TowerTokenizer {}

impl TowerTokenizer {
    /// prefix + text + suffix (+ eos for [`Pooling::Eos`]), cut to `max_tokens` by dropping tokens from the
    /// end of the text. Very long texts are cut safely before tokenising, with the same result.
    pub fn tokenize(&self, text: &str) -> Result<Tokenized> {
        let _ = text;
        todo!("tower helper")
    }

    /// Byte ranges of windows of at most `window` text tokens that overlap by `overlap` tokens.
    pub fn chunks(
        &self,
        text: &str,
        window: u32,
        overlap: u32,
    ) -> Result<Vec<std::ops::Range<usize>>> {
        let _ = (text, window, overlap);
        todo!("tower helper")
    }
}

/// A tower whose files are found, hashed and checked, and whose weights are not yet loaded.
#[derive(Clone)]
pub struct Tower {}

impl Tower {
    /// Finds (downloads, if a repo id) and hashes the files, opens the tokenizer, reads the model's
    /// configuration. Relative paths start from `base_dir`.
    pub async fn resolve(
        options: &TowerOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Self> {
        let _ = (options, base_dir, reporter);
        todo!("tower helper")
    }

    /// The embedding space of this tower with a template (by the hash of its source).
    pub fn space(&self, template: Digest256) -> EmbeddingSpace {
        let _ = template;
        todo!("tower helper")
    }

    /// Dimensions of its vectors.
    pub fn dimensions(&self) -> u32 {
        todo!("tower helper")
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TowerTokenizer {
        todo!("tower helper")
    }

    /// Estimated bytes of one loaded encoder, activations of `token_budget` tokens included.
    pub fn memory(&self, token_budget: usize) -> u64 {
        let _ = token_budget;
        todo!("tower helper")
    }

    /// Loads the weights onto a device.
    pub fn load(&self, device: &DeviceSpec) -> Result<Box<dyn Encoder>> {
        let _ = device;
        todo!("tower helper")
    }
}

/// A loaded tower on one device. One per worker thread.
pub trait Encoder: Send {
    /// Encodes sequences packed without padding; row i belongs to sequence i. Pooled, cut to the Matryoshka
    /// dimensions and normalised. The result of a sequence does not depend on its neighbours.
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings>;
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
/// Reads lazily from a memory map: nothing is held after the call.
pub trait WeightSource: Send + Sync {
    /// The tensor, checked against `shape`.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<candle_core::Tensor>;
    /// Whether such a tensor exists.
    fn contains(&self, name: &str) -> bool;
}
