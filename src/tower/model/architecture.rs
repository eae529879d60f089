//! What a decoder LLM is, and where its weights come from: between weight files and engines.

use crate::error::Result;

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
