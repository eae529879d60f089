//! The decoder LLM as training sees it: packed sequences in, pooled unit vectors out, differentiable.

#[cfg(test)]
mod composed_tests;
mod slices;

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use serde_json::{Value, json};

use self::slices::{Embedded, Spare};
use super::adapter::{AdapterView, LoraTarget};
use crate::error::{Error, Result};
use crate::tower::{DecoderConfig, TowerOptions, WeightSource};
use crate::train::autograd::attention::{Pack, attention};
use crate::train::autograd::linear::{Weight, frozen_linear, lora_linear};
use crate::train::autograd::ops::{rms_norm, swiglu};
use crate::train::gradients::Gradients;
use crate::train::tensors::tensor_error;
use crate::types::Pooling;

const EMBEDDINGS: &str = "model.embed_tokens.weight";

/// Weights of one layer.
#[derive(Clone)]
struct Layer {
    input_norm: Tensor,
    post_norm: Tensor,
    /// In the order of [`LoraTarget::ALL`].
    projections: [Weight; 7],
    /// q, k, v.
    biases: Option<[Tensor; 3]>,
    /// q, k.
    head_norms: Option<[Tensor; 2]>,
}

/// All weights, and what becomes of the states.
#[derive(Clone)]
pub(crate) struct Decoder {
    pub(crate) config: DecoderConfig,
    pooling: Pooling,
    dimensions: Option<usize>,
    embeddings: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Products are of numbers rounded to bf16 (see [`Precision`]).
    packed: bool,
    device: Device,
    /// Buffers of the processor's.
    spare: Arc<Spare>,
}

/// What the backward pass needs of texts that were embedded.
pub(crate) enum Memory {
    /// Nothing: they are embedded again.
    Nothing,
    /// The graph of their vectors.
    Graph(Tensor),
    /// The processor's values.
    Slices(Embedded),
}

/// Which weights become parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trainable {
    /// None: an adapter is trained beside them.
    None,
    /// Those of the layers and the last norm.
    Layers,
    /// The embedding table too.
    All,
}

/// In what numbers a decoder computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Precision {
    /// Of weights and states.
    pub(crate) dtype: DType,
    /// Multiply numbers rounded to bf16 by the processor's kernels; everything else stays in `dtype`, which is f32.
    pub(crate) packed: bool,
}

impl Precision {
    /// Everything in f32.
    pub(crate) const F32: Self = Self { dtype: DType::F32, packed: false };
}

/// Refuses a family that cannot be trained.
///
/// # Errors
/// Unsupported, naming it.
pub(crate) fn check_family(config: &DecoderConfig) -> Result<()> {
    if matches!(config.family.as_str(), "llama" | "qwen2" | "qwen3" | "mistral") {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "training of model family {:?} is not supported (llama, qwen2, qwen3 and mistral are)",
        config.family
    )))
}

/// A weight's name and its parameter.
pub(crate) type NamedVar = (String, Var);

impl Decoder {
    /// Loads every weight; those that `trainable` names become parameters, returned by name. `tower` says what becomes
    /// of the states.
    pub(crate) fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        tower: &TowerOptions,
        trainable: Trainable,
        precision: Precision,
        device: &Device,
    ) -> Result<(Self, Vec<NamedVar>)> {
        let Precision { dtype, packed } = precision;
        check_family(config)?;
        if trainable != Trainable::None && dtype != DType::F32 {
            return Err(Error::config("full fine-tuning computes in f32; choose arithmetic f32"));
        }
        if trainable != Trainable::None && config.rope_factors.is_some() {
            return Err(Error::unsupported(
                "a model with rope_scaling can be trained by LoRA, not in full",
            ));
        }
        let mut vars = Vec::new();
        let mut tensor = |name: String, shape: &[usize]| -> Result<Tensor> {
            let loaded = source.tensor(&name, shape)?;
            let loaded = loaded
                .to_device(device)
                .and_then(|t| t.to_dtype(dtype))
                .and_then(|t| t.contiguous())
                .map_err(tensor_error)?;
            let frozen = match trainable {
                Trainable::None => true,
                Trainable::Layers => name == EMBEDDINGS,
                Trainable::All => false,
            };
            if frozen {
                return Ok(loaded);
            }
            let var = Var::from_tensor(&loaded).map_err(tensor_error)?;
            vars.push((name, var.clone()));
            Ok(var.as_tensor().clone())
        };
        let width = config.hidden_size;
        let embeddings = tensor(EMBEDDINGS.into(), &[config.vocab_size, width])?;
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let mut projections = Vec::with_capacity(7);
            for target in LoraTarget::ALL {
                let (out, input) = target.shape(config);
                let weight = tensor(name(&format!("{}.weight", target.path())), &[out, input])?;
                projections.push(match packed && !weight.is_variable() {
                    true => Weight::pack(&weight).map_err(tensor_error)?,
                    false => Weight::Tensor(weight),
                });
            }
            let projections = projections
                .try_into()
                .map_err(|_: Vec<Weight>| Error::internal("seven projections make a layer"))?;
            let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
            let biases = match config.qkv_bias {
                true => Some([
                    tensor(name("self_attn.q_proj.bias"), &[q])?,
                    tensor(name("self_attn.k_proj.bias"), &[kv])?,
                    tensor(name("self_attn.v_proj.bias"), &[kv])?,
                ]),
                false => None,
            };
            let head_norms = match config.qk_norm {
                true => Some([
                    tensor(name("self_attn.q_norm.weight"), &[config.head_dim])?,
                    tensor(name("self_attn.k_norm.weight"), &[config.head_dim])?,
                ]),
                false => None,
            };
            layers.push(Layer {
                input_norm: tensor(name("input_layernorm.weight"), &[width])?,
                post_norm: tensor(name("post_attention_layernorm.weight"), &[width])?,
                projections,
                biases,
                head_norms,
            });
        }
        let norm = tensor("model.norm.weight".into(), &[width])?;
        let dimensions = match tower.dimensions {
            Some(cut) if cut as usize > width || cut == 0 => {
                return Err(Error::config(format!("tower.dimensions must be in 1..={width}")));
            }
            cut => cut.map(|cut| cut as usize).filter(|cut| *cut < width),
        };
        let decoder = Self {
            config: config.clone(),
            pooling: tower.pooling(),
            dimensions,
            embeddings,
            layers,
            norm,
            packed,
            device: device.clone(),
            spare: Arc::default(),
        };
        Ok((decoder, vars))
    }

    /// The tensors that are not parameters beside trained layers: the embedding table.
    pub(crate) fn frozen(&self) -> Vec<(String, Tensor)> {
        match self.embeddings.is_variable() {
            true => Vec::new(),
            false => vec![(EMBEDDINGS.to_owned(), self.embeddings.clone())],
        }
    }

    /// A `config.json` with which the tower, and Python's transformers, load exported weights.
    pub(crate) fn hugging_face_config(&self) -> Value {
        let c = &self.config;
        let name = match c.family.as_str() {
            "qwen2" => "Qwen2Model",
            "qwen3" => "Qwen3Model",
            "mistral" => "MistralModel",
            _ => "LlamaModel",
        };
        let mut fields = json!({
            "architectures": [name],
            "model_type": c.family,
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "num_hidden_layers": c.layers,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim,
            "rms_norm_eps": c.rms_norm_eps,
            "rope_theta": c.rope_theta,
            "attention_bias": c.qkv_bias && c.family != "qwen2",
            "max_position_embeddings": c.max_positions,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
        });
        if !c.causal {
            fields["is_causal"] = false.into();
        }
        if let Some(sliding) = &c.sliding {
            let kind = |slides: &bool| match slides {
                true => "sliding_attention",
                false => "full_attention",
            };
            let layers = sliding.layers.iter().take(c.layers);
            fields["layer_types"] = layers.map(kind).collect();
            fields["use_sliding_window"] = true.into();
            // A window that ends at a token counts the token.
            fields["sliding_window"] = (sliding.before + usize::from(c.causal)).into();
        }
        fields
    }

    /// Where it computes.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The same weights as far as the first `layers` layers; the tensors are shared.
    pub(crate) fn first_layers(&self, layers: usize) -> Self {
        let mut copy = self.clone();
        copy.layers.truncate(layers);
        copy.config.layers = copy.layers.len();
        copy
    }

    /// The same weights, cut off from the graph: forward passes through it record nothing.
    fn detached(&self) -> Self {
        let mut copy = self.clone();
        let cut = |t: &mut Tensor| *t = t.detach();
        cut(&mut copy.embeddings);
        cut(&mut copy.norm);
        for layer in &mut copy.layers {
            cut(&mut layer.input_norm);
            cut(&mut layer.post_norm);
            layer.projections.iter_mut().for_each(|weight| *weight = weight.detach());
            layer.biases.iter_mut().flatten().for_each(cut);
            layer.head_norms.iter_mut().flatten().for_each(cut);
        }
        copy
    }

    /// Unit vectors `[sequences, dimensions]` in f32, without a graph, and what [`Decoder::backward`] needs of them:
    /// with `keep` all of it, else as much as takes little memory.
    pub(crate) fn embed(
        &self,
        sequences: &[&[u32]],
        adapter: Option<&AdapterView>,
        keep: bool,
    ) -> Result<(Tensor, Memory)> {
        if let Some(id) =
            sequences.iter().copied().flatten().find(|id| **id as usize >= self.config.vocab_size)
        {
            return Err(Error::input(format!("token {id} is outside the model's vocabulary")));
        }
        if sequences.iter().any(|s| s.is_empty()) {
            return Err(Error::input("a text became no tokens; leave empty texts out"));
        }
        let embed = || match (self.device.is_cpu(), keep) {
            (true, _) => self.embed_slices(sequences, adapter, keep),
            (false, true) => {
                let vectors = self.composed(sequences, adapter)?;
                Ok((vectors.detach(), Memory::Graph(vectors)))
            }
            (false, false) => {
                let adapter = adapter.map(AdapterView::detached);
                let vectors = self.detached().composed(sequences, adapter.as_ref())?.detach();
                Ok((vectors, Memory::Nothing))
            }
        };
        embed().map_err(tensor_error)
    }

    /// Adds to `grads` what the parameters learn from `upstream`, the gradient of the vectors of these sequences, which
    /// [`Decoder::embed`] gave `memory` for.
    pub(crate) fn backward(
        &self,
        memory: Memory,
        sequences: &[&[u32]],
        adapter: Option<&AdapterView>,
        upstream: &Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let back = || {
            let vectors = match memory {
                Memory::Slices(embedded) => {
                    return self.backward_slices(embedded, sequences, adapter, upstream, grads);
                }
                Memory::Graph(vectors) => vectors,
                Memory::Nothing => self.composed(sequences, adapter)?,
            };
            grads.add_all((vectors * upstream)?.sum_all()?.backward()?)
        };
        back().map_err(tensor_error)
    }

    /// Vectors composed of candle's operations, with their graph.
    fn composed(
        &self,
        sequences: &[&[u32]],
        adapter: Option<&AdapterView>,
    ) -> CandleResult<Tensor> {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
        let ids: Vec<u32> = sequences.concat();
        // The first layer's window is mostly that of all.
        let pack = Pack::new(&self.config, self.config.window(0), lengths);
        let states = self.states(ids, &pack, adapter)?;
        let pooled = pool(&states, &pack, self.pooling)?.to_dtype(DType::F32)?;
        let pooled = match self.dimensions {
            Some(cut) => pooled.narrow(1, 0, cut)?,
            None => pooled,
        };
        normalize(&pooled)
    }

    /// Final states `[total, hidden]`, after the last norm.
    fn states(
        &self,
        ids: Vec<u32>,
        pack: &Pack,
        adapter: Option<&AdapterView>,
    ) -> CandleResult<Tensor> {
        let epsilon = self.config.rms_norm_eps;
        let ids = Tensor::new(ids, &self.device)?;
        let mut x = self.embeddings.index_select(&ids, 0)?;
        // Layers have one window, or two.
        let mut other = None;
        for (number, layer) in self.layers.iter().enumerate() {
            let linear = |x: &Tensor, target: LoraTarget| {
                let weight = &layer.projections[target as usize];
                match adapter.and_then(|a| a.pairs.get(&(number, target)).map(|p| (a.scale, p))) {
                    Some((scale, (a, b))) => lora_linear(x, weight, a, b, scale),
                    None => match weight {
                        Weight::Tensor(tensor) if weight.is_variable() => x.matmul(&tensor.t()?),
                        _ => frozen_linear(x, weight),
                    },
                }
            };
            let normal = rms_norm(&x, &layer.input_norm, epsilon)?;
            let mut q = linear(&normal, LoraTarget::QProj)?;
            let mut k = linear(&normal, LoraTarget::KProj)?;
            let mut v = linear(&normal, LoraTarget::VProj)?;
            if let Some([bq, bk, bv]) = &layer.biases {
                q = q.broadcast_add(bq)?;
                k = k.broadcast_add(bk)?;
                v = v.broadcast_add(bv)?;
            }
            if let Some([nq, nk]) = &layer.head_norms {
                q = head_norm(&q, nq, epsilon)?;
                k = head_norm(&k, nk, epsilon)?;
            }
            let window = self.config.window(number);
            let pack = match window == pack.window {
                true => pack,
                false => other.get_or_insert_with(|| pack.seeing(window)),
            };
            let mixed = attention(&q, &k, &v, pack)?;
            x = (x + linear(&mixed, LoraTarget::OProj)?)?;
            let normal = rms_norm(&x, &layer.post_norm, epsilon)?;
            let gate = linear(&normal, LoraTarget::GateProj)?;
            let up = linear(&normal, LoraTarget::UpProj)?;
            let inner = swiglu(&gate, &up)?;
            x = (x + linear(&inner, LoraTarget::DownProj)?)?;
        }
        rms_norm(&x, &self.norm, epsilon)
    }
}

/// RMSNorm of every head on its own.
fn head_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> CandleResult<Tensor> {
    let (rows, width) = x.dims2()?;
    let head_dim = weight.elem_count();
    rms_norm(&x.reshape((rows * width / head_dim, head_dim))?, weight, epsilon)?
        .reshape((rows, width))
}

/// Token states `[total, hidden]` to one row per sequence.
fn pool(states: &Tensor, pack: &Pack, pooling: Pooling) -> CandleResult<Tensor> {
    let device = states.device();
    match pooling {
        Pooling::LastToken | Pooling::Eos => {
            let mut end = 0u32;
            let last: Vec<u32> = pack
                .lengths
                .iter()
                .map(|length| {
                    end += *length as u32;
                    end - 1
                })
                .collect();
            states.index_select(&Tensor::new(last, device)?, 0)
        }
        Pooling::Mean => mean_states(states, pack),
        other => candle_core::bail!("pooling = \"{}\" cannot be trained", other.name()),
    }
}

/// Token states `[total, hidden]` to the mean of each sequence: `M x` where row i of M averages the rows of sequence i;
/// its backward pass is `M^T g`.
fn mean_states(states: &Tensor, pack: &Pack) -> CandleResult<Tensor> {
    let ((total, _), sequences, device) = (states.dims2()?, pack.lengths.len(), states.device());
    let (mut starts, mut ends, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = 0u32;
    for length in pack.lengths.iter() {
        starts.push(end);
        end += *length as u32;
        ends.push(end);
        lengths.push(*length as f32);
    }
    // M is made on the device: an upload of its size may wait until the layers are computed.
    let starts = Tensor::from_vec(starts, (sequences, 1), device)?;
    let ends = Tensor::from_vec(ends, (sequences, 1), device)?;
    let lengths = Tensor::from_vec(lengths, (sequences, 1), device)?;
    let at = Tensor::arange(0u32, total as u32, device)?.unsqueeze(0)?;
    let own = (at.broadcast_ge(&starts)? * at.broadcast_lt(&ends)?)?;
    let matrix = own.to_dtype(DType::F32)?.broadcast_div(&lengths)?;
    // (M x)^T = x^T M^T: the frozen layer applied to x^T has the backward pass wanted.
    let matrix = Weight::Tensor(matrix.to_dtype(states.dtype())?);
    frozen_linear(&states.t()?.contiguous()?, &matrix)?.t()?.contiguous()
}

/// Rows to unit length.
pub(crate) fn normalize(x: &Tensor) -> CandleResult<Tensor> {
    let length = (x.sqr()?.sum_keepdim(1)? + 1e-24)?.sqrt()?;
    x.broadcast_div(&length)
}
