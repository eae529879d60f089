//! The decoder's weight tensors by name and shape.

use candle_core::Storage;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::{DecoderConfig, WeightSource};

/// Reads tensors of a model as plain vectors.
pub(crate) struct Weights<'a> {
    pub(crate) config: &'a DecoderConfig,
    pub(crate) source: &'a dyn WeightSource,
}

/// The tensors of one layer, in Hugging Face layout `[out, in]`; its matrices as `M`.
pub(crate) struct LayerWeights<M> {
    pub(crate) input_norm: Vec<f32>,
    pub(crate) q: M,
    pub(crate) k: M,
    pub(crate) v: M,
    pub(crate) q_bias: Option<Vec<f32>>,
    pub(crate) kv_bias: Option<Vec<f32>>,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) o: M,
    /// Behind attention, before its result joins the residual stream (Gemma).
    pub(crate) attended_norm: Option<Vec<f32>>,
    /// Before the feed-forward layer.
    pub(crate) inner_norm: Vec<f32>,
    pub(crate) gate: M,
    pub(crate) up: M,
    pub(crate) down: M,
    /// Behind the feed-forward layer (Gemma).
    pub(crate) outer_norm: Option<Vec<f32>>,
}

/// A tensor of a model as a plain vector.
pub(crate) fn floats(source: &dyn WeightSource, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    source
        .tensor(name, shape)?
        .flatten_all()
        .and_then(|tensor| tensor.to_vec1::<f32>())
        .or_error(ErrorKind::Input, || format!("reading weight tensor `{name}`"))
}

impl Weights<'_> {
    /// A tensor as a plain vector.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        floats(self.source, name, shape)
    }

    /// `[vocab_size, hidden_size]`, each element made into `T`.
    pub(crate) fn embedding<T>(&self, from: impl Fn(f32) -> T) -> Result<Vec<T>> {
        let name = "model.embed_tokens.weight";
        let tensor =
            self.source.tensor(name, &[self.config.vocab_size, self.config.hidden_size])?;
        let failed = || format!("reading weight tensor `{name}`");
        let (storage, layout) = tensor.storage_and_layout();
        // Straight out of the tensor: it may be most of a small model's memory, and two copies would show.
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(storage), Some((start, end))) => {
                let elements = storage.as_slice::<f32>().or_error(ErrorKind::Input, failed)?;
                Ok(elements[start..end].iter().map(|x| from(*x)).collect())
            }
            _ => Err(Error::internal(failed())),
        }
    }

    /// Weight of the norm after the last layer.
    pub(crate) fn norm(&self) -> Result<Vec<f32>> {
        self.norm_of("model.norm.weight", self.config.hidden_size)
    }

    /// A norm's weight as it is multiplied by.
    fn norm_of(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let mut weight = self.floats(name, &[width])?;
        if self.config.gemma.as_ref().is_some_and(|gemma| gemma.norms_from_one) {
            weight.iter_mut().for_each(|x| *x += 1.);
        }
        Ok(weight)
    }

    /// Layer `at`; `matrix` reads its matrices by name and shape.
    pub(crate) fn layer<M>(
        &self,
        at: usize,
        matrix: impl Fn(&str, [usize; 2]) -> Result<M>,
    ) -> Result<LayerWeights<M>> {
        let c = self.config;
        let (hidden, middle) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let full = |name: &str| format!("model.layers.{at}.{name}");
        let get = |name: &str, width: usize| self.floats(&full(name), &[width]);
        let matrix = |name: &str, shape| matrix(&full(name), shape);
        let bias = |name: &str, width: usize| get(&format!("self_attn.{name}_proj.bias"), width);
        let norm = |name: &str, width: usize| self.norm_of(&full(name), width);
        let head_norm = |name: &str| {
            let name = format!("self_attn.{name}_norm.weight");
            c.qk_norm.then(|| norm(&name, c.head_dim)).transpose()
        };
        let gemma = |name: &str| c.gemma.as_ref().map(|_| norm(name, hidden)).transpose();
        let before_inner = match c.gemma {
            None => "post_attention_layernorm.weight",
            Some(_) => "pre_feedforward_layernorm.weight",
        };
        Ok(LayerWeights {
            input_norm: norm("input_layernorm.weight", hidden)?,
            q: matrix("self_attn.q_proj.weight", [q, hidden])?,
            k: matrix("self_attn.k_proj.weight", [kv, hidden])?,
            v: matrix("self_attn.v_proj.weight", [kv, hidden])?,
            q_bias: c.qkv_bias.then(|| bias("q", q)).transpose()?,
            kv_bias: c
                .qkv_bias
                .then(|| Ok::<_, Error>([bias("k", kv)?, bias("v", kv)?].concat()))
                .transpose()?,
            q_norm: head_norm("q")?,
            k_norm: head_norm("k")?,
            o: matrix("self_attn.o_proj.weight", [hidden, q])?,
            attended_norm: gemma("post_attention_layernorm.weight")?,
            inner_norm: norm(before_inner, hidden)?,
            gate: matrix("mlp.gate_proj.weight", [middle, hidden])?,
            up: matrix("mlp.up_proj.weight", [middle, hidden])?,
            down: matrix("mlp.down_proj.weight", [hidden, middle])?,
            outer_norm: gemma("post_feedforward_layernorm.weight")?,
        })
    }
}
