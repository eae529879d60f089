//! The decoder's weight tensors by name and shape.

use crate::error::{ErrorKind, Result, ResultExt};
use crate::tower::{DecoderConfig, WeightSource};

/// Reads tensors of a model as plain vectors.
pub(crate) struct Weights<'a> {
    pub(crate) config: &'a DecoderConfig,
    pub(crate) source: &'a dyn WeightSource,
}

/// The tensors of one layer, in Hugging Face layout `[out, in]`.
pub(crate) struct LayerWeights {
    pub(crate) input_norm: Vec<f32>,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) q_bias: Option<Vec<f32>>,
    pub(crate) kv_bias: Option<Vec<f32>>,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) o: Vec<f32>,
    pub(crate) post_norm: Vec<f32>,
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    pub(crate) down: Vec<f32>,
}

impl Weights<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.source.tensor(name, shape)?;
        tensor
            .flatten_all()
            .and_then(|tensor| tensor.to_vec1::<f32>())
            .or_error(ErrorKind::Input, || format!("reading weight tensor `{name}`"))
    }

    /// `[vocab_size, hidden_size]`.
    pub(crate) fn embedding(&self) -> Result<Vec<f32>> {
        self.get("model.embed_tokens.weight", &[self.config.vocab_size, self.config.hidden_size])
    }

    /// Weight of the norm after the last layer.
    pub(crate) fn norm(&self) -> Result<Vec<f32>> {
        self.get("model.norm.weight", &[self.config.hidden_size])
    }

    /// Layer `at`.
    pub(crate) fn layer(&self, at: usize) -> Result<LayerWeights> {
        let c = self.config;
        let (hidden, middle) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let get =
            |name: &str, shape: &[usize]| self.get(&format!("model.layers.{at}.{name}"), shape);
        let bias = |name: &str, width: usize| get(&format!("self_attn.{name}_proj.bias"), &[width]);
        let head_norm = |name: &str| {
            c.qk_norm
                .then(|| get(&format!("self_attn.{name}_norm.weight"), &[c.head_dim]))
                .transpose()
        };
        Ok(LayerWeights {
            input_norm: get("input_layernorm.weight", &[hidden])?,
            q: get("self_attn.q_proj.weight", &[q, hidden])?,
            k: get("self_attn.k_proj.weight", &[kv, hidden])?,
            v: get("self_attn.v_proj.weight", &[kv, hidden])?,
            q_bias: c.qkv_bias.then(|| bias("q", q)).transpose()?,
            kv_bias: c
                .qkv_bias
                .then(|| Ok::<_, crate::error::Error>([bias("k", kv)?, bias("v", kv)?].concat()))
                .transpose()?,
            q_norm: head_norm("q")?,
            k_norm: head_norm("k")?,
            o: get("self_attn.o_proj.weight", &[hidden, q])?,
            post_norm: get("post_attention_layernorm.weight", &[hidden])?,
            gate: get("mlp.gate_proj.weight", &[middle, hidden])?,
            up: get("mlp.up_proj.weight", &[middle, hidden])?,
            down: get("mlp.down_proj.weight", &[hidden, middle])?,
        })
    }
}
