//! The decoder on candle tensors: the same packed forward pass for any device that candle knows.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::rope_thd;

use super::attention::{Attention, Groups};
use super::fault::fault;
use super::transfer::{Landing, Transfer, words};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::kernel::Activation;
use crate::tower::model::layer_weights::Weights;
use crate::tower::model::pool::Want;
use crate::tower::model::rope::Rope;
use crate::tower::{DecoderConfig, WeightSource};

/// Matrices stay apart: on a device one product each is as fast as a fused one, and its result needs no copy.
struct Layer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    o: Linear,
    attended_norm: Option<Tensor>,
    inner_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
    outer_norm: Option<Tensor>,
}

/// `x W^T + b`, W `[out, in]`.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// A loaded decoder on a candle device.
pub(crate) struct TensorDecoder {
    config: DecoderConfig,
    transfer: Transfer,
    attention: Attention,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    angles: Angles,
    /// Of sliding layers, where they are others.
    sliding_angles: Option<Angles>,
}

/// Cosines and sines, `[rows, head_dim / 2]` each.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Angles {
    fn of(&self, positions: &Tensor) -> candle_core::Result<Self> {
        let (cos, sin) = (&self.cos, &self.sin);
        Ok(Self { cos: cos.index_select(positions, 0)?, sin: sin.index_select(positions, 0)? })
    }
}

/// The packed batch: how its rows belong to sequences.
struct Batch {
    angles: Angles,
    sliding_angles: Option<Angles>,
    groups: Groups,
}

impl TensorDecoder {
    /// Reads all weights onto the device.
    pub(crate) fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        device: Device,
        dtype: DType,
        max_tokens: usize,
    ) -> Result<Self> {
        let weights = Weights { config, source };
        let put = |data: Vec<f32>, shape: &[usize]| {
            let copied = Tensor::from_vec(data, shape, &Device::Cpu)
                .and_then(|tensor| tensor.to_dtype(dtype))
                .and_then(|tensor| tensor.to_device(&device));
            copied.or_error(ErrorKind::Resource, || "copying weights to the device")
        };
        let (hidden, middle) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let linear = |data: Vec<f32>, out: usize, width: usize, bias: Option<Vec<f32>>| {
            let bias = bias.map(|bias| put(bias, &[out])).transpose()?;
            Ok::<_, Error>(Linear { weight: put(data, &[out, width])?, bias })
        };
        let mut layers = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            let w = weights.layer(at, |name, shape| weights.floats(name, &shape))?;
            let norm = |w: Option<Vec<f32>>| w.map(|w| put(w, &[hidden])).transpose();
            let head_norm = |w: Option<Vec<f32>>| w.map(|w| put(w, &[config.head_dim])).transpose();
            let (k_bias, v_bias) = match w.kv_bias {
                Some(mut k) => {
                    let v = k.split_off(kv);
                    (Some(k), Some(v))
                }
                None => (None, None),
            };
            layers.push(Layer {
                input_norm: put(w.input_norm, &[hidden])?,
                q: linear(w.q, q, hidden, w.q_bias)?,
                k: linear(w.k, kv, hidden, k_bias)?,
                v: linear(w.v, kv, hidden, v_bias)?,
                q_norm: head_norm(w.q_norm)?,
                k_norm: head_norm(w.k_norm)?,
                o: linear(w.o, hidden, q, None)?,
                attended_norm: norm(w.attended_norm)?,
                inner_norm: put(w.inner_norm, &[hidden])?,
                gate: linear(w.gate, middle, hidden, None)?,
                up: linear(w.up, middle, hidden, None)?,
                down: linear(w.down, hidden, middle, None)?,
                outer_norm: norm(w.outer_norm)?,
            });
        }
        let angles = |rope: Rope| {
            let table = |table: &[f32]| put(table.to_vec(), &[max_tokens, config.head_dim / 2]);
            let (cos, sin) = rope.tables();
            Ok::<_, Error>(Angles { cos: table(cos)?, sin: table(sin)? })
        };
        // Table, factor and product are rounded, each, as the reference computes in that type.
        let round = |x: f32| match dtype {
            DType::BF16 => half::bf16::from_f32(x).to_f32(),
            DType::F16 => half::f16::from_f32(x).to_f32(),
            _ => x,
        };
        let scale = round(config.embedding_scale());
        let table = weights.embedding(|x| round(x) * scale)?;
        Ok(Self {
            config: config.clone(),
            embedding: put(table, &[config.vocab_size, hidden])?,
            layers,
            norm: put(weights.norm()?, &[hidden])?,
            angles: angles(Rope::new(config, max_tokens))?,
            sliding_angles: Rope::of_sliding(config, max_tokens).map(angles).transpose()?,
            attention: Attention::new(config, &device, dtype),
            transfer: fault(Transfer::new(device), "preparing the device")?,
        })
    }

    /// Final-norm states in f32 on the device: `[total, hidden]`, or one pooled row per sequence.
    pub(crate) fn run(&self, sequences: &[&[u32]], want: Want) -> Result<Tensor> {
        let states = self.forward(sequences, want);
        fault(states, "computing the forward pass on the device")
    }

    /// Hands a batch over to the device and returns before it is computed, where the device works by itself.
    pub(crate) fn start(&self, sequences: &[&[u32]], want: Want) -> Result<Landing> {
        let states = self.run(sequences, want)?;
        fault(self.transfer.land(states), "copying vectors from the device")
    }

    fn forward(&self, sequences: &[&[u32]], want: Want) -> candle_core::Result<Tensor> {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
        // Everything the device has to know about the batch, in one copy.
        let mut staged = Vec::new();
        let ids = words(&mut staged, sequences.iter().copied().flatten().copied());
        let positions = words(&mut staged, lengths.iter().flat_map(|length| 0..*length as u32));
        let last = words(
            &mut staged,
            lengths.iter().scan(0, |end, length| {
                *end += *length as u32;
                Some(*end - 1)
            }),
        );
        let first = words(
            &mut staged,
            lengths.iter().scan(0, |start, length| {
                *start += *length as u32;
                Some(*start - *length as u32)
            }),
        );
        let pools = matches!(want, Want::Pooled(_));
        let grouped = self.attention.stage(&lengths, pools, &mut staged);
        let staged = self.transfer.upload(staged)?;
        let part = |range: &std::ops::Range<usize>| staged.narrow(0, range.start, range.len());

        let positions = part(&positions)?;
        let batch = Batch {
            angles: self.angles.of(&positions)?,
            sliding_angles: match &self.sliding_angles {
                Some(angles) => Some(angles.of(&positions)?),
                None => None,
            },
            groups: self.attention.groups(grouped, &staged)?,
        };
        let eps = self.config.rms_norm_eps as f32;
        let mut x = self.embedding.index_select(&part(&ids)?, 0)?;
        let joined = |x: &Tensor, y: Tensor, norm: &Option<Tensor>| match norm {
            Some(norm) => x + rms_norm(&y, norm, eps)?,
            None => x + y,
        };
        for (at, layer) in self.layers.iter().enumerate() {
            let attended = self.attend(at, &rms_norm(&x, &layer.input_norm, eps)?, &batch)?;
            x = joined(&x, attended, &layer.attended_norm)?;
            let inner = self.feed_forward(layer, &rms_norm(&x, &layer.inner_norm, eps)?)?;
            x = joined(&x, inner, &layer.outer_norm)?;
        }
        let states = |x: &Tensor| rms_norm(x, &self.norm, eps)?.to_dtype(DType::F32);
        match want {
            Want::All => states(&x),
            Want::Last => states(&x.index_select(&part(&last)?, 0)?),
            Want::First => states(&x.index_select(&part(&first)?, 0)?),
            Want::Pooled(pool) => batch.groups.pool(&states(&x)?, pool),
        }
    }

    fn attend(&self, at: usize, x: &Tensor, batch: &Batch) -> candle_core::Result<Tensor> {
        let (c, layer) = (&self.config, &self.layers[at]);
        let angles = match &batch.sliding_angles {
            Some(angles) if c.slides(at) => angles,
            _ => &batch.angles,
        };
        let total = x.dim(0)?;
        let turn = |linear: &Linear, heads: usize, norm: &Option<Tensor>| {
            let mut x = linear.forward(x)?.reshape((total, heads, c.head_dim))?;
            if let Some(norm) = norm {
                x = rms_norm(&x, norm, c.rms_norm_eps as f32)?;
            }
            rope_thd(&x.unsqueeze(0)?, &angles.cos, &angles.sin)?.squeeze(0)
        };
        let q = turn(&layer.q, c.heads, &layer.q_norm)?;
        let k = turn(&layer.k, c.kv_heads, &layer.k_norm)?;
        let v = layer.v.forward(x)?.reshape((total, c.kv_heads, c.head_dim))?;
        let attended = self.attention.attend(&q, &k, &v, c.window(at), &batch.groups)?;
        layer.o.forward(&attended.reshape((total, c.heads * c.head_dim))?)
    }

    fn feed_forward(&self, layer: &Layer, x: &Tensor) -> candle_core::Result<Tensor> {
        let gate = layer.gate.forward(x)?;
        let gate = match self.config.gate() {
            Activation::Silu => silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
            Activation::Gelu => gate.gelu_erf()?,
            Activation::Relu => gate.relu()?,
        };
        layer.down.forward(&(gate * layer.up.forward(x)?)?)
    }
}
