//! The decoder on candle tensors.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::rms_norm;

use super::attention::{Attention, Scored};
use super::batch::{Batch, Planned};
use super::fault::{check_size, fault};
use super::fused::{Heads, NormKind, add_norm, gated};
use super::linear::Linear;
use super::load::Loader;
use super::tower::TensorTower;
use super::transfer::Transfer;
use crate::error::Result;
use crate::tower::model::layer_weights::Weights;
use crate::tower::model::pool::Want;
use crate::tower::model::rope::Rope;
use crate::tower::{DecoderConfig, WeightSource};

struct Layer {
    input_norm: Tensor,
    /// Queries, keys and values.
    qkv: Linear,
    /// `[2, head_dim]` in f32: the queries' norm and the keys'.
    head_norms: Option<Tensor>,
    o: Linear,
    attended_norm: Option<Tensor>,
    inner_norm: Tensor,
    /// Gate and up.
    gate_up: Linear,
    down: Linear,
    outer_norm: Option<Tensor>,
}

/// A loaded decoder on a candle device.
pub(crate) struct TensorDecoder {
    config: DecoderConfig,
    transfer: Transfer,
    attention: Attention,
    heads: Heads,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// `[positions, head_dim]` in f32, cosines before sines.
    angles: Tensor,
    /// Of sliding layers, where they are others.
    sliding_angles: Option<Tensor>,
}

impl TensorDecoder {
    /// Reads all weights onto the device. `flash` lets attention take the fused kernels, where the program has them for
    /// this device and these heads.
    pub(crate) fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        device: &Device,
        dtype: DType,
        max_tokens: usize,
        flash: bool,
    ) -> Result<Self> {
        // First: from here on everything happens on the device's one stream.
        let transfer = fault(Transfer::new(device), "preparing the device")?;
        let weights = Weights { config, source };
        let loader = Loader { device, dtype };
        let put = |data: Vec<f32>| {
            let width = data.len();
            loader.numbers(data, &[width], dtype)
        };
        let mut layers = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            let w = weights.layer(at, |name, shape| loader.tensor(source, name, &shape))?;
            let bias = match (w.q_bias, w.kv_bias) {
                (Some(q), Some(kv)) => Some(put([q, kv].concat())?),
                _ => None,
            };
            let head_norms = match (w.q_norm, w.k_norm) {
                (Some(q), Some(k)) => {
                    Some(loader.numbers([q, k].concat(), &[2, config.head_dim], DType::F32)?)
                }
                _ => None,
            };
            let (attended_norm, outer_norm) = (w.attended_norm.map(put), w.outer_norm.map(put));
            layers.push(Layer {
                input_norm: put(w.input_norm)?,
                qkv: Linear { weight: loader.stacked(&[w.q, w.k, w.v])?, bias },
                head_norms,
                o: Linear { weight: w.o, bias: None },
                attended_norm: attended_norm.transpose()?,
                inner_norm: put(w.inner_norm)?,
                gate_up: Linear { weight: loader.stacked(&[w.gate, w.up])?, bias: None },
                down: Linear { weight: w.down, bias: None },
                outer_norm: outer_norm.transpose()?,
            });
        }
        let angles = |rope: Rope| loader.angles(&rope, config.head_dim);
        let sliding_angles = Rope::of_sliding(config, max_tokens).map(angles).transpose()?;
        let angles = angles(Rope::new(config, max_tokens))?;
        let shape = [config.vocab_size, config.hidden_size];
        let mut embedding = loader.tensor(source, "model.embed_tokens.weight", &shape)?;
        if config.gemma.is_some() {
            // Table, factor and product are rounded, each, as the reference computes in that type.
            let scaled = embedding.affine(f64::from(config.embedding_scale()), 0.);
            embedding = fault(scaled, "scaling embeddings on the device")?;
        }
        let norm = put(weights.norm()?)?;
        let scored = Scored {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.score_scale() as f32,
            looks_ahead: (0..config.layers).any(|layer| config.window(layer).after > 0),
        };
        let attention = Attention::new(scored, None, device, dtype, flash);
        let heads = Heads {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            epsilon: config.rms_norm_eps as f32,
            scale: attention.query_scale(),
        };
        Ok(Self {
            config: config.clone(),
            transfer,
            attention,
            heads,
            embedding,
            layers,
            norm,
            angles,
            sliding_angles,
        })
    }

    fn attend(&self, at: usize, x: &Tensor, batch: &Batch) -> candle_core::Result<Tensor> {
        let (c, layer) = (&self.config, &self.layers[at]);
        let qkv = layer.qkv.forward(x)?;
        let angles = match &self.sliding_angles {
            Some(angles) if c.slides(at) => angles,
            _ => &self.angles,
        };
        let norms = layer.head_norms.as_ref();
        let turned = self.heads.turn(&qkv, angles, &batch.positions, norms)?;
        let attended = self.attention.attend(&turned, c.window(at), &batch.groups)?;
        let width = c.heads * c.head_dim;
        layer.o.forward(&attended.reshape((x.dim(0)?, width))?)
    }
}

impl TensorTower for TensorDecoder {
    fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    fn is_fused(&self) -> bool {
        self.attention.fused()
    }

    fn plan(&self, sequences: &[&[u32]], want: Want) -> Result<Planned> {
        let c = &self.config;
        let heads = (c.heads + 2 * c.kv_heads) * c.head_dim;
        let widest = heads.max(2 * c.intermediate_size).max(c.hidden_size);
        check_size(sequences, widest)?;
        let positions = sequences.iter().flat_map(|sequence| 0..sequence.len() as u32);
        Ok(Planned::new(&self.attention, sequences, positions, want))
    }

    fn forward(&self, planned: Planned, words: &Tensor) -> candle_core::Result<Tensor> {
        let batch = planned.arrived(&self.attention, words)?;
        let eps = self.config.rms_norm_eps as f32;
        let join = |x: &Tensor, change: &Tensor, norm: &Tensor| {
            add_norm(x, change, norm, (NormKind::Rms, eps))
        };
        let mut x = self.embedding.index_select(&batch.ids, 0)?;
        let mut normal = match self.layers.first() {
            Some(layer) => rms_norm(&x, &layer.input_norm, eps)?,
            None => rms_norm(&x, &self.norm, eps)?,
        };
        let behind = |change: Tensor, norm: &Option<Tensor>| match norm {
            Some(norm) => rms_norm(&change, norm, eps),
            None => Ok(change),
        };
        for (at, layer) in self.layers.iter().enumerate() {
            let attended = behind(self.attend(at, &normal, &batch)?, &layer.attended_norm)?;
            (x, normal) = join(&x, &attended, &layer.inner_norm)?;
            let inner = gated(&layer.gate_up.forward(&normal)?, self.config.gate())?;
            let fed = behind(layer.down.forward(&inner)?, &layer.outer_norm)?;
            let next = self.layers.get(at + 1).map_or(&self.norm, |next| &next.input_norm);
            (x, normal) = join(&x, &fed, next)?;
        }
        batch.wanted(&normal)
    }
}
