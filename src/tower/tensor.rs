//! The decoder tower on candle tensors: the same packed forward pass for any device that candle knows.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::attention::flash_attn_varlen_unfused;
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::rope_thd;

use crate::error::{ErrorKind, Result, ResultExt};
use crate::tower::layer_weights::Weights;
use crate::tower::pool::Want;
use crate::tower::rope::Rope;
use crate::tower::{DecoderConfig, WeightSource};

struct Layer {
    input_norm: Tensor,
    /// q, k and v one below the other, `[(heads + 2 kv_heads) * head_dim, hidden]`.
    qkv: Tensor,
    qkv_bias: Option<Tensor>,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    o: Tensor,
    post_norm: Tensor,
    /// `[2 * intermediate, hidden]`.
    gate_up: Tensor,
    down: Tensor,
}

/// A loaded decoder on a candle device.
pub(crate) struct TensorDecoder {
    config: DecoderConfig,
    device: Device,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    rope: Rope,
    dtype: DType,
}

/// The packed batch: how its rows belong to sequences.
struct Batch {
    lengths: Tensor,
    longest: usize,
    cos: Tensor,
    sin: Tensor,
}

fn fault<T>(result: candle_core::Result<T>, what: &'static str) -> Result<T> {
    // Out of memory is the one fault of a device that less work cures.
    result.map_err(|error| {
        let text = error.to_string().to_lowercase();
        let memory = text.contains("out of memory") || text.contains("out_of_memory");
        let kind = if memory { ErrorKind::Resource } else { ErrorKind::Internal };
        crate::error::Error::new(kind, what).with_source(error)
    })
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
            Tensor::from_vec(data, shape, &Device::Cpu)
                .and_then(|tensor| tensor.to_dtype(dtype))
                .and_then(|tensor| tensor.to_device(&device))
                .or_error(ErrorKind::Resource, || "copying weights to the device")
        };
        let (hidden, middle) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut layers = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            let w = weights.layer(at, |name, shape| weights.floats(name, &shape))?;
            let bias = w.q_bias.zip(w.kv_bias).map(|(q, kv)| [q, kv].concat());
            let head_norm = |w: Option<Vec<f32>>| w.map(|w| put(w, &[config.head_dim])).transpose();
            layers.push(Layer {
                input_norm: put(w.input_norm, &[hidden])?,
                qkv: put([w.q, w.k, w.v].concat(), &[q + 2 * kv, hidden])?,
                qkv_bias: bias.map(|bias| put(bias, &[q + 2 * kv])).transpose()?,
                q_norm: head_norm(w.q_norm)?,
                k_norm: head_norm(w.k_norm)?,
                o: put(w.o, &[hidden, q])?,
                post_norm: put(w.post_norm, &[hidden])?,
                gate_up: put([w.gate, w.up].concat(), &[2 * middle, hidden])?,
                down: put(w.down, &[hidden, middle])?,
            });
        }
        Ok(Self {
            embedding: put(weights.embedding(|x| x)?, &[config.vocab_size, hidden])?,
            norm: put(weights.norm()?, &[hidden])?,
            rope: Rope::new(config, max_tokens),
            config: config.clone(),
            device,
            layers,
            dtype,
        })
    }

    /// Final-norm states in f32 on the device: `[total, hidden]`, or one pooled row per sequence.
    pub(crate) fn run(&self, sequences: &[&[u32]], want: Want) -> Result<Tensor> {
        fault(self.forward(sequences, want), "computing the forward pass on the device")
    }

    fn forward(&self, sequences: &[&[u32]], want: Want) -> candle_core::Result<Tensor> {
        let ids = Tensor::new(sequences.concat(), &self.device)?;
        let batch = self.batch(sequences)?;
        let eps = self.config.rms_norm_eps as f32;
        let mut x = self.embedding.index_select(&ids, 0)?;
        for layer in &self.layers {
            x = (&x + self.attend(layer, &rms_norm(&x, &layer.input_norm, eps)?, &batch)?)?;
            x = (&x + self.feed_forward(layer, &rms_norm(&x, &layer.post_norm, eps)?)?)?;
        }
        let states = |x: &Tensor| rms_norm(&x.contiguous()?, &self.norm, eps)?.to_dtype(DType::F32);
        match want {
            Want::All => states(&x),
            Want::Last => {
                let mut last = Vec::with_capacity(sequences.len());
                let mut end = 0;
                for sequence in sequences {
                    end += sequence.len() as u32;
                    last.push(end - 1);
                }
                states(&x.index_select(&Tensor::new(last, &self.device)?, 0)?)
            }
            Want::Mean => {
                let x = states(&x)?;
                let mut start = 0;
                let mut means = Vec::with_capacity(sequences.len());
                for sequence in sequences {
                    means.push(x.narrow(0, start, sequence.len())?.mean(0)?);
                    start += sequence.len();
                }
                Tensor::stack(&means, 0)
            }
        }
    }

    fn batch(&self, sequences: &[&[u32]]) -> candle_core::Result<Batch> {
        let half = self.config.head_dim / 2;
        let total: usize = sequences.iter().map(|sequence| sequence.len()).sum();
        let (cos, sin) = self.rope.tables();
        let gather = |table: &[f32]| {
            let mut rows = Vec::with_capacity(total * half);
            for sequence in sequences {
                rows.extend_from_slice(&table[..sequence.len() * half]);
            }
            Tensor::from_vec(rows, (total, half), &self.device)?.to_dtype(self.dtype)
        };
        let lengths: Vec<u32> = sequences.iter().map(|sequence| sequence.len() as u32).collect();
        Ok(Batch {
            longest: lengths.iter().max().map_or(0, |longest| *longest as usize),
            lengths: Tensor::new(lengths, &self.device)?,
            cos: gather(cos)?,
            sin: gather(sin)?,
        })
    }

    fn attend(&self, layer: &Layer, x: &Tensor, batch: &Batch) -> candle_core::Result<Tensor> {
        let c = &self.config;
        let total = x.dim(0)?;
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let mut qkv = x.matmul(&layer.qkv.t()?)?;
        if let Some(bias) = &layer.qkv_bias {
            qkv = qkv.broadcast_add(bias)?;
        }
        let turn = |start: usize, heads: usize, norm: &Option<Tensor>| {
            let x = qkv.narrow(1, start, heads * c.head_dim)?.contiguous()?;
            let mut x = x.reshape((total, heads, c.head_dim))?;
            if let Some(norm) = norm {
                x = rms_norm(&x, norm, c.rms_norm_eps as f32)?;
            }
            rope_thd(&x.unsqueeze(0)?, &batch.cos, &batch.sin)?.squeeze(0)
        };
        let q = turn(0, c.heads, &layer.q_norm)?;
        let k = turn(q_width, c.kv_heads, &layer.k_norm)?;
        let v = qkv.narrow(1, q_width + kv_width, kv_width)?.contiguous()?;
        let v = v.reshape((total, c.kv_heads, c.head_dim))?;
        let scale = 1. / (c.head_dim as f32).sqrt();
        let (n, longest) = (&batch.lengths, batch.longest);
        let attended = flash_attn_varlen_unfused(
            &q, &k, &v, None, n, n, longest, longest, scale, true, None, None,
        )?;
        attended.reshape((total, q_width))?.matmul(&layer.o.t()?)
    }

    fn feed_forward(&self, layer: &Layer, x: &Tensor) -> candle_core::Result<Tensor> {
        let middle = self.config.intermediate_size;
        let gate_up = x.matmul(&layer.gate_up.t()?)?;
        let gate = gate_up.narrow(D::Minus1, 0, middle)?;
        let up = gate_up.narrow(D::Minus1, middle, middle)?;
        (silu(&gate.contiguous()?)? * up)?.matmul(&layer.down.t()?)
    }
}
