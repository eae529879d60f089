//! The packed decoder tower: configuration checked, weights on one device, sequences without padding.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result, ResultExt};
use crate::kernel::Isa;
use crate::tower::cpu::CpuDecoder;
use crate::tower::device::{OnDevice, element, open_cuda};
use crate::tower::files::config::{FAMILIES, unsupported_family};
use crate::tower::model::apart::Apart;
use crate::tower::model::pool::Want;
use crate::tower::model::shape::Shape;
use crate::tower::tensor::{Landing, TensorDecoder, TensorTower, ceiling, test_decoder};
use crate::tower::{DecoderConfig, DeviceSpec, Encoder, Started, WeightSource};
use crate::types::{Arithmetic, Embeddings, Pooling};

/// A decoder LLM (Llama, Qwen2, Qwen3, Mistral, Phi-3, Gemma 3) loaded onto one device. Sequences run packed,
/// `[total tokens, hidden]`, each attending to itself alone, causally or in both directions.
pub struct Decoder {
    config: DecoderConfig,
    max_tokens: usize,
    engine: Engine,
    ceiling: Option<f64>,
}

enum Engine {
    Cpu(Box<CpuDecoder>),
    Tensor(Box<TensorDecoder>),
}

impl Decoder {
    /// Loads all weights. `max_tokens` is the longest sequence that will come. A GPU is tried first, on random layers.
    ///
    /// # Errors
    /// Unsupported, for a family, arithmetic or device that is not there; input, for a configuration that
    /// contradicts itself; internal, where a GPU computes other vectors than the processor; whatever the weight source
    /// reports.
    pub fn load(
        config: &DecoderConfig,
        weights: &dyn WeightSource,
        device: &DeviceSpec,
        arithmetic: Arithmetic,
        max_tokens: usize,
    ) -> Result<Self> {
        check(config, arithmetic, max_tokens)?;
        let apart = Apart { config, source: weights };
        let weights = if stored_apart(config) { weights } else { &apart };
        let mut reached = None;
        let engine = match device {
            DeviceSpec::Cpu { threads } => Engine::Cpu(Box::new(CpuDecoder::load(
                config,
                weights,
                *threads,
                max_tokens,
                Isa::best(),
                arithmetic,
            )?)),
            DeviceSpec::Cuda(number) => {
                let dtype = element(arithmetic)?;
                let device = open_cuda(*number)?;
                test_decoder(config, &device, dtype)?;
                reached = Some(ceiling(config.products(), &device, dtype)?);
                let engine =
                    TensorDecoder::load(config, weights, &device, dtype, max_tokens, true)?;
                Engine::Tensor(Box::new(engine))
            }
        };
        Ok(Self { config: config.clone(), max_tokens, engine, ceiling: reached })
    }

    /// [`Decoder::load`] without fused attention kernels, and without trying the device: what they are compared with.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_composed(
        config: &DecoderConfig,
        weights: &dyn WeightSource,
        device: &DeviceSpec,
        arithmetic: Arithmetic,
        max_tokens: usize,
    ) -> Result<Self> {
        let DeviceSpec::Cuda(number) = device else {
            return Self::load(config, weights, device, arithmetic, max_tokens);
        };
        check(config, arithmetic, max_tokens)?;
        let apart = Apart { config, source: weights };
        let weights = if stored_apart(config) { weights } else { &apart };
        let (dtype, device) = (element(arithmetic)?, open_cuda(*number)?);
        let engine = TensorDecoder::load(config, weights, &device, dtype, max_tokens, false)?;
        let (config, engine) = (config.clone(), Engine::Tensor(Box::new(engine)));
        Ok(Self { config, max_tokens, engine, ceiling: None })
    }

    /// The same decoder on candle tensors of the processor: what other devices run, for tests on machines
    /// that have none, and as a second opinion on the processor's own kernels. There f32 and f16 work.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_on_tensors(
        config: &DecoderConfig,
        weights: &dyn WeightSource,
        arithmetic: Arithmetic,
        max_tokens: usize,
    ) -> Result<Self> {
        check(config, arithmetic, max_tokens)?;
        let apart = Apart { config, source: weights };
        let weights = if stored_apart(config) { weights } else { &apart };
        let dtype = element(arithmetic)?;
        let device = Device::Cpu;
        let engine = TensorDecoder::load(config, weights, &device, dtype, max_tokens, true)?;
        let reached = ceiling(config.products(), &device, dtype)?;
        let (config, engine) = (config.clone(), Engine::Tensor(Box::new(engine)));
        Ok(Self { config, max_tokens, engine, ceiling: Some(reached) })
    }

    /// Architecture.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// States after the final norm of every token, sequences one after another: `[total tokens, hidden]`, f32.
    ///
    /// # Errors
    /// Input, for an empty or over-long sequence or an id outside the vocabulary; resource, where the device is
    /// out of memory.
    pub fn hidden(&mut self, sequences: &[&[u32]]) -> Result<Tensor> {
        self.check_sequences(sequences)?;
        match &mut self.engine {
            Engine::Cpu(engine) => {
                let states = engine.run(sequences, Want::All);
                let rows = states.len() / self.config.hidden_size;
                Tensor::from_vec(states, (rows, self.config.hidden_size), &Device::Cpu)
                    .context(|| "wrapping hidden states")
            }
            Engine::Tensor(engine) => {
                if sequences.is_empty() {
                    return Tensor::zeros((0, self.config.hidden_size), DType::F32, &Device::Cpu)
                        .context(|| "wrapping hidden states");
                }
                engine.run(sequences, Want::All)
            }
        }
    }

    /// Hands a batch over: one pooled state per sequence will come, row-major `[sequences, hidden]`.
    fn start(&mut self, sequences: &[&[u32]], pooling: Pooling) -> Result<States> {
        self.check_sequences(sequences)?;
        if sequences.is_empty() {
            return Ok(States::Here(Vec::new()));
        }
        match &mut self.engine {
            Engine::Cpu(engine) => Ok(States::Here(engine.run(sequences, pooling.into()))),
            Engine::Tensor(engine) => engine.start(sequences, pooling.into()).map(States::Landing),
        }
    }

    fn check_sequences(&self, sequences: &[&[u32]]) -> Result<()> {
        for (at, sequence) in sequences.iter().enumerate() {
            if sequence.is_empty() {
                return Err(Error::input(format!("sequence {at} of the batch has no tokens")));
            }
            if sequence.len() > self.max_tokens {
                return Err(Error::input(format!(
                    "sequence {at} of the batch has {} tokens, the tower was loaded for at most {}; \
                     raise max_tokens or cut the text",
                    sequence.len(),
                    self.max_tokens
                )));
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= self.config.vocab_size) {
                return Err(Error::input(format!(
                    "token id {id} is outside the vocabulary of {} tokens; tokenizer and weights \
                     do not belong together",
                    self.config.vocab_size
                )));
            }
        }
        Ok(())
    }
}

/// Pooled states of a batch.
enum States {
    Here(Vec<f32>),
    Landing(Landing),
}

/// Whether each matrix is a tensor of its own.
fn stored_apart(config: &DecoderConfig) -> bool {
    config.family != "phi3"
}

/// Refuses arithmetic that a family's states do not fit.
///
/// # Errors
/// Unsupported.
pub(super) fn check_arithmetic(config: &DecoderConfig, arithmetic: Arithmetic) -> Result<()> {
    if config.gemma.is_some() && arithmetic == Arithmetic::F16 {
        return Err(Error::unsupported(
            "arithmetic = \"f16\" is not supported for Gemma 3, whose states exceed its range; choose f32 or bf16",
        ));
    }
    Ok(())
}

fn check(config: &DecoderConfig, arithmetic: Arithmetic, max_tokens: usize) -> Result<()> {
    let c = config;
    if !FAMILIES.contains(&c.family.as_str()) {
        return Err(unsupported_family(&c.family));
    }
    check_arithmetic(c, arithmetic)?;
    let wrong = |what: String| Err(Error::input(format!("model configuration: {what}")));
    let sizes = [
        ("vocab_size", c.vocab_size),
        ("hidden_size", c.hidden_size),
        ("intermediate_size", c.intermediate_size),
        ("layers", c.layers),
        ("heads", c.heads),
        ("kv_heads", c.kv_heads),
        ("head_dim", c.head_dim),
    ];
    if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
        return wrong(format!("{name} is 0"));
    }
    if !c.heads.is_multiple_of(c.kv_heads) {
        return wrong(format!("{} heads cannot share {} key/value heads", c.heads, c.kv_heads));
    }
    if !c.head_dim.is_multiple_of(2) {
        return wrong(format!("head_dim {} is odd, rotary positions need pairs", c.head_dim));
    }
    if let Some(factors) = &c.rope_factors
        && factors.len() != c.head_dim / 2
    {
        return wrong(format!("{} rope factors for {} frequencies", factors.len(), c.head_dim / 2));
    }
    if max_tokens == 0 || max_tokens > c.max_positions {
        return Err(Error::config(format!(
            "max_tokens = {max_tokens} must lie within 1..={}, the positions the model was made for",
            c.max_positions
        )));
    }
    Ok(())
}

/// An encoder over a decoder: pools, cuts to `dimensions` (all where `None`) and normalises.
pub fn decoder_encoder(
    decoder: Decoder,
    pooling: Pooling,
    dimensions: Option<u32>,
    normalize: bool,
) -> Box<dyn Encoder> {
    let hidden = decoder.config.hidden_size;
    let dimensions = dimensions.map_or(hidden, |dimensions| dimensions as usize);
    shaped(decoder, pooling, Shape { hidden, head: Arc::default(), dimensions, normalize })
}

/// An encoder over a decoder: pools, and makes vectors of that as `shape` says.
pub(crate) fn shaped(decoder: Decoder, pooling: Pooling, shape: Shape) -> Box<dyn Encoder> {
    Box::new(DecoderEncoder { decoder, pooling, shape })
}

struct DecoderEncoder {
    decoder: Decoder,
    pooling: Pooling,
    shape: Shape,
}

impl Encoder for DecoderEncoder {
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings> {
        self.start(sequences)?.finish()
    }

    fn ceiling(&self) -> Option<f64> {
        self.decoder.ceiling
    }

    fn start(&mut self, sequences: &[&[u32]]) -> Result<Started> {
        let Shape { hidden, dimensions, ref head, .. } = self.shape;
        if head.is_empty() && !(1..=hidden).contains(&dimensions) {
            return Err(Error::config(format!(
                "dimensions = {dimensions} must lie within 1..={hidden}, the tower's width"
            )));
        }
        Ok(match self.decoder.start(sequences, self.pooling)? {
            States::Here(states) => Started::Done(self.shape.vectors(&states)),
            States::Landing(landing) => {
                Started::Running(Box::new(OnDevice { landing, shape: self.shape.clone() }))
            }
        })
    }
}
