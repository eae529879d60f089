//! An encoder as a tower: what ready-made small embedders are, and what a distilled query tower is.
//!
//! On the processor its layers are our kernels, because a query of a dozen tokens is over before a product has packed its
//! weights; other devices compute them on candle's tensors.

use candle_core::Device;

use crate::error::{Error, Result};
use crate::kernel::Isa;
use crate::tower::cpu::CpuEncoder;
use crate::tower::device::{OnDevice, element, open_cuda};
use crate::tower::model::encoder_config::EncoderConfig;
use crate::tower::model::encoder_weights::EncoderWeights;
use crate::tower::model::layer_weights::floats;
use crate::tower::model::pool::Want;
use crate::tower::model::shape::Shape;
use crate::tower::tensor::{TensorEncoder, TensorTower, ceiling, test_encoder};
use crate::tower::{DeviceSpec, Encoder, Started, WeightSource};
use crate::types::{Arithmetic, Embeddings, Pooling};

/// A loaded encoder on one device.
pub(crate) struct EncoderTower {
    engine: Engine,
    vectors: Shape,
    max_positions: usize,
    vocabulary: usize,
    ceiling: Option<f64>,
}

enum Engine {
    Cpu(CpuEncoder),
    Tensor(TensorEncoder, Want),
}

/// What is loaded.
pub(crate) struct EncoderFiles<'a> {
    pub(crate) config: &'a EncoderConfig,
    pub(crate) weights: &'a dyn WeightSource,
    pub(crate) pooling: Pooling,
    /// What becomes of a pooled state.
    pub(crate) vectors: Shape,
    pub(crate) arithmetic: Arithmetic,
}

impl EncoderFiles<'_> {
    /// Loads the weights. A GPU is tried first, on random layers.
    ///
    /// # Errors
    /// Input where a tensor is missing or of another shape; Unsupported for an arithmetic or a device that is not there;
    /// Internal, where a GPU computes other vectors than the processor.
    pub(crate) fn load(self, device: &DeviceSpec) -> Result<EncoderTower> {
        match device {
            DeviceSpec::Cpu { threads } => {
                let (pooling, arithmetic) = (self.pooling, self.arithmetic);
                self.onto(|weights| {
                    let isa = Isa::best();
                    let model = CpuEncoder::load(weights, pooling, *threads, isa, arithmetic)?;
                    Ok((Engine::Cpu(model), None))
                })
            }
            DeviceSpec::Cuda(number) => {
                let dtype = element(self.arithmetic)?;
                let device = open_cuda(*number)?;
                test_encoder(self.config, &device, dtype)?;
                self.on_tensors(&device)
            }
        }
    }

    /// The same on candle's tensors.
    pub(crate) fn on_tensors(self, device: &Device) -> Result<EncoderTower> {
        let dtype = element(self.arithmetic)?;
        let reached = ceiling(self.config.products(), device, dtype)?;
        let (longest, want) = (self.config.max_positions, self.pooling.into());
        self.onto(|weights| {
            let model = TensorEncoder::load(weights, device, dtype, longest, true)?;
            Ok((Engine::Tensor(model, want), Some(reached)))
        })
    }

    fn onto(
        self,
        load: impl FnOnce(&EncoderWeights<'_>) -> Result<(Engine, Option<f64>)>,
    ) -> Result<EncoderTower> {
        let Self { config, weights, vectors, .. } = self;
        let read = |name: &str, shape: &[usize]| {
            floats(weights, &stored(weights, config.names.prefix, name), shape)
        };
        let (engine, ceiling) = load(&EncoderWeights { config, read: &read })?;
        let (max_positions, vocabulary) = (config.max_positions, config.vocab_size);
        Ok(EncoderTower { engine, vectors, max_positions, vocabulary, ceiling })
    }
}

/// Looks for every tensor of an encoder, without reading any; `one` for one of them.
///
/// # Errors
/// Input for one that is missing or of another shape, Unsupported for one of a type that cannot be read; each names file and
/// tensor.
pub(crate) fn check(
    config: &EncoderConfig,
    weights: &dyn WeightSource,
    one: impl Fn(&str, &[usize]) -> Result<()>,
) -> Result<()> {
    let look = |name: &str, shape: &[usize]| {
        one(&stored(weights, config.names.prefix, name), shape).map(|()| Vec::new())
    };
    let wanted = EncoderWeights { config, read: &look };
    wanted.words()?;
    wanted.positions()?;
    wanted.norm()?;
    wanted.last_norm()?;
    wanted.relative()?;
    (0..config.layers).try_for_each(|at| wanted.layer(at).map(drop))
}

/// The name under which a tensor is stored: with the family's prefix or without; norms of older files, as TensorFlow
/// called them.
fn stored(weights: &dyn WeightSource, prefix: &str, name: &str) -> String {
    let older = name
        .strip_suffix("LayerNorm.weight")
        .map(|norm| format!("{norm}LayerNorm.gamma"))
        .or_else(|| Some(format!("{}LayerNorm.beta", name.strip_suffix("LayerNorm.bias")?)));
    [Some(name.to_owned()), older]
        .into_iter()
        .flatten()
        .flat_map(|name| [format!("{prefix}{name}"), name])
        .find(|name| weights.contains(name))
        .unwrap_or_else(|| name.to_owned())
}

impl EncoderTower {
    fn check(&self, sequences: &[&[u32]]) -> Result<()> {
        for sequence in sequences {
            if sequence.is_empty() || sequence.len() > self.max_positions {
                return Err(Error::input(format!(
                    "a text of {} tokens, where the encoder takes 1 to {}",
                    sequence.len(),
                    self.max_positions
                )));
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= self.vocabulary) {
                return Err(Error::input(format!(
                    "token {id}, where the encoder knows {}",
                    self.vocabulary
                )));
            }
        }
        Ok(())
    }
}

impl Encoder for EncoderTower {
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings> {
        self.start(sequences)?.finish()
    }

    fn start(&mut self, sequences: &[&[u32]]) -> Result<Started> {
        self.check(sequences)?;
        Ok(match &mut self.engine {
            Engine::Tensor(model, want) if !sequences.is_empty() => {
                let landing = model.start(sequences, *want)?;
                Started::Running(Box::new(OnDevice { landing, shape: self.vectors.clone() }))
            }
            Engine::Tensor(..) => Started::Done(self.vectors.vectors(&[])),
            Engine::Cpu(model) => Started::Done(self.vectors.vectors(&model.run(sequences))),
        })
    }

    fn ceiling(&self) -> Option<f64> {
        self.ceiling
    }
}
