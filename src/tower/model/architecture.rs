//! What a decoder LLM is, and where its weights come from: between weight files and engines.

use crate::error::Result;
use crate::kernel::{Activation, Window};

/// Architecture of a decoder LLM, whatever file it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Model family, as `model_type` says: `llama`, `qwen2`, `qwen3`, `mistral`, `phi3`, `gemma3_text`.
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
    /// Per-frequency divisors from `rope_scaling` (llama3, linear, longrope), `[head_dim / 2]`; `None` for plain RoPE.
    pub rope_factors: Option<Vec<f32>>,
    /// Factor of the rotary cosines and sines: 1 but for longrope.
    pub rope_scale: f32,
    /// Whether q, k and v have a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether q and k heads are RMS-normalised (Qwen3).
    pub qk_norm: bool,
    /// Longest position the model was made for.
    pub max_positions: usize,
    /// Whether a token sees itself and those before it only, not those behind.
    pub causal: bool,
    /// Layers that see a part of their sequence only; `None` where all layers see all of it.
    pub sliding: Option<Sliding>,
    /// What Gemma 3 does otherwise; `None` for all other families.
    pub gemma: Option<Gemma>,
}

/// Layers whose tokens see their neighbourhood only.
#[derive(Debug, Clone, PartialEq)]
pub struct Sliding {
    /// How many tokens before itself a token sees.
    pub before: usize,
    /// How many behind it.
    pub after: usize,
    /// Which layers these are, in order.
    pub layers: Vec<bool>,
    /// Base of their rotary frequencies, which are not scaled; `None` where they are those of the other layers.
    pub rope_theta: Option<f64>,
}

/// Gemma 3: embeddings times the square root of the hidden size, GeGLU instead of SwiGLU, and a norm behind attention
/// and feed-forward, too.
#[derive(Debug, Clone, PartialEq)]
pub struct Gemma {
    /// Scores are divided by its square root (`query_pre_attn_scalar`), not by that of the head's width.
    pub query_scalar: f64,
    /// Whether norms are stored as their difference from 1, as Hugging Face has them; llama.cpp's converter adds it.
    pub norms_from_one: bool,
}

impl DecoderConfig {
    /// The tokens that a token of a layer sees.
    pub(crate) fn window(&self, layer: usize) -> Window {
        match &self.sliding {
            Some(sliding) if self.slides(layer) => {
                Window { before: sliding.before, after: sliding.after }
            }
            _ if self.causal => Window::CAUSAL,
            _ => Window::FULL,
        }
    }

    /// Whether a layer sees a neighbourhood only.
    pub(crate) fn slides(&self, layer: usize) -> bool {
        let sliding = self.sliding.as_ref();
        sliding.is_some_and(|sliding| sliding.layers.get(layer).copied().unwrap_or(false))
    }

    /// Tokens of a text that notices nothing of a window, where a window is all that sliding layers have of their own.
    pub(crate) fn plain_window(&self) -> Option<usize> {
        let sliding = self.sliding.as_ref()?;
        (self.causal && sliding.rope_theta.is_none()).then_some(sliding.before + 1)
    }

    /// Multiply-adds of a token with the weights of all layers.
    pub(crate) fn products(&self) -> usize {
        let heads = self.head_dim * 2 * (self.heads + self.kv_heads);
        self.layers * self.hidden_size * (heads + 3 * self.intermediate_size)
    }

    /// What the embeddings of tokens are multiplied by.
    pub(crate) fn embedding_scale(&self) -> f32 {
        if self.gemma.is_some() { (self.hidden_size as f64).sqrt() as f32 } else { 1. }
    }

    /// What scores are multiplied by.
    pub(crate) fn score_scale(&self) -> f64 {
        let scalar = self.gemma.as_ref().map_or(self.head_dim as f64, |gemma| gemma.query_scalar);
        scalar.sqrt().recip()
    }

    /// The function of the feed-forward layer's gate.
    pub(crate) fn gate(&self) -> Activation {
        if self.gemma.is_some() { Activation::GeluTanh } else { Activation::Silu }
    }
}

/// Gives weight tensors by their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`, ...) as
/// contiguous f32 on the CPU, rotary halves in Hugging Face (non-interleaved) order, adapter merged.
/// Reads lazily from the file: nothing is held after the call.
pub trait WeightSource: Send + Sync {
    /// The tensor, checked against `shape`.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<candle_core::Tensor>;
    /// Whether that tensor exists.
    fn contains(&self, name: &str) -> bool;
    /// The tensor in the 16 bits an element, bf16 or f16, in which the file stores it, contiguous on the CPU, rows in
    /// the same order as [`WeightSource::tensor`] gives them; `None` where it is not kept so, or an adapter changes it.
    fn half(&self, _name: &str, _shape: &[usize]) -> Result<Option<candle_core::Tensor>> {
        Ok(None)
    }
    /// The tensor's Q8_0 blocks as GGUF stores them, rows in the same order as [`WeightSource::tensor`] gives
    /// them; `None` where it is not kept so. Checked against `shape`, `[rows, width]`.
    fn q8_0(&self, _name: &str, _shape: &[usize; 2]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
