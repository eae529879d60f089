//! What is loaded: shapes with random weights, or a model, on a device.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use scalingnote::error::Result as OurResult;
use scalingnote::observe::{Reporter, Silent};
use scalingnote::tower::{
    Decoder, DecoderConfig, DeviceSpec, Encoder, Tower, TowerOptions, WeightSource, decoder_encoder,
};
use scalingnote::types::{Arithmetic, Pooling};
use serde_json::json;

use crate::{Arguments, Failure};

/// Ids stay below this: every model has so many tokens.
pub const IDS: u64 = 1000;
/// The longest sequence.
pub const LONGEST: usize = 512;

/// SmolLM2's and Qwen3's published shapes, and one for a look at the bench itself.
fn shape(name: &str) -> Result<DecoderConfig, Failure> {
    let (hidden_size, intermediate_size, layers, heads, kv_heads, head_dim) = match name {
        "smollm2" => (576, 1536, 30, 9, 3, 64),
        "qwen3-0.6b" => (1024, 3072, 28, 16, 8, 128),
        "qwen3-4b" => (2560, 9728, 36, 32, 8, 128),
        "qwen3-8b" => (4096, 12288, 36, 32, 8, 128),
        "tiny" => (64, 160, 2, 4, 2, 16),
        _ => return Err(format!("no shape `{name}`").into()),
    };
    let llama = name == "smollm2";
    Ok(DecoderConfig {
        family: if llama { "llama" } else { "qwen3" }.to_owned(),
        vocab_size: match name {
            "tiny" => IDS as usize,
            "smollm2" => 49_152,
            _ => 151_936,
        },
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads,
        head_dim,
        rms_norm_eps: if llama { 1e-5 } else { 1e-6 },
        rope_theta: if llama { 1e5 } else { 1e6 },
        rope_factors: None,
        rope_scale: 1.,
        qkv_bias: false,
        qk_norm: !llama,
        max_positions: LONGEST,
        causal: true,
        sliding: None,
        gemma: None,
    })
}

/// What `--model` or `--shape` name.
pub enum Model {
    Tower(Tower),
    Shape { config: Box<DecoderConfig>, name: String, weights: Random },
}

impl Model {
    pub fn of(arguments: &Arguments) -> Result<Self, Failure> {
        if let Some(model) = &arguments.model {
            let options = TowerOptions::new(model, Pooling::Mean);
            let reporter: Arc<dyn Reporter> = Arc::new(Silent);
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            let tower = Tower::resolve(&options, Path::new("."), &reporter);
            return Ok(Self::Tower(runtime.block_on(tower)?));
        }
        let name = arguments.shape.clone().ok_or("--model or --shape is needed")?;
        let mut config = shape(&name)?;
        config.layers = arguments.layers.unwrap_or(config.layers).min(config.layers);
        Ok(Self::Shape { config: Box::new(config), name, weights: Random::new() })
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Tower(_) => "model",
            Self::Shape { name, .. } => name,
        }
    }

    pub fn parts(&self) -> Result<(&DecoderConfig, &dyn WeightSource), Failure> {
        match self {
            Self::Tower(tower) => {
                tower.config().zip(tower.weights()).ok_or_else(|| "a decoder is needed".into())
            }
            Self::Shape { config, weights, .. } => Ok((config, weights)),
        }
    }

    /// On `cuda:N`, `cpu`, or `tensors`: what a GPU runs, on the processor. `flash` lets attention take the fused
    /// kernels.
    pub fn load(
        &self,
        device: &str,
        arithmetic: Arithmetic,
        flash: bool,
    ) -> Result<Box<dyn Encoder>, Failure> {
        let (config, weights) = self.parts()?;
        let longest = config.max_positions.min(LONGEST);
        let decoder = match device {
            "tensors" => Decoder::load_on_tensors(config, weights, arithmetic, longest)?,
            _ if flash => Decoder::load(config, weights, &spec(device)?, arithmetic, longest)?,
            _ => {
                let device = spec(device)?;
                Decoder::load_composed(config, weights, &device, arithmetic, longest)?
            }
        };
        Ok(decoder_encoder(decoder, Pooling::Mean, None, true))
    }
}

fn spec(name: &str) -> Result<DeviceSpec, Failure> {
    match name.strip_prefix("cuda:") {
        Some(number) => Ok(DeviceSpec::Cuda(number.parse()?)),
        None if name == "cpu" => Ok(DeviceSpec::Cpu { threads: 0 }),
        None => Err(format!("no device `{name}`").into()),
    }
}

/// Weights without meaning, small enough for every arithmetic.
pub struct Random(Vec<f32>);

impl Random {
    fn new() -> Self {
        let mut state = 1u64;
        Self((0..1 << 20).map(|_| next(&mut state) as f32 / (1u64 << 31) as f32 - 1.0).collect())
    }

    /// A run of the table at a time: number by number, the weights of an 8B tower take half a minute.
    fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let count: usize = shape.iter().product();
        if shape.len() == 1 {
            return vec![1.0; count];
        }
        let spread = 1.0 / (shape[shape.len() - 1] as f32).sqrt();
        let start = name.bytes().fold(7usize, |at, byte| at.wrapping_mul(31) + usize::from(byte));
        let mut values = Vec::with_capacity(count);
        let mut run = &self.0[start % self.0.len()..];
        while values.len() < count {
            let some = &run[..run.len().min(count - values.len())];
            values.extend(some.iter().map(|x| x * spread));
            run = &self.0;
        }
        values
    }
}

fn wrapped<T: candle_core::WithDType>(
    name: &str,
    data: Vec<T>,
    shape: &[usize],
) -> OurResult<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu).map_err(|error| {
        scalingnote::error::Error::internal(format!("random weights {name}: {error}"))
    })
}

impl WeightSource for Random {
    fn tensor(&self, name: &str, shape: &[usize]) -> OurResult<Tensor> {
        wrapped(name, self.values(name, shape), shape)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

/// 31 random bits.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// This many sequences of random ids: of 256 tokens each, or of mixed lengths: most short, some at the limit, 181
/// tokens in the mean.
pub fn sequences(set: &str, count: usize) -> Vec<Vec<u32>> {
    let mut state = 3;
    let sequence = |_| {
        let at = next(&mut state) as f64 / (1u64 << 31) as f64;
        let length = if set == "256" { 256 } else { 16 + (496.0 * at * at) as usize };
        (0..length).map(|_| (next(&mut state) % IDS) as u32).collect()
    };
    (0..count).map(sequence).collect()
}

/// The name of a class of arithmetic.
pub fn name_of(arithmetic: Arithmetic) -> String {
    json!(arithmetic).as_str().unwrap_or("?").to_owned()
}
