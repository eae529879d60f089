//! Whether a device computes what it should, tried on random layers before it gets a tower: kernels that were not made
//! for a card leave memory as it was and report nothing, and a batch that overtakes another gives finite vectors.

use candle_core::{DType, Device};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::decoder::TensorDecoder;
use super::encoder::TensorEncoder;
use super::tower::TensorTower;
use crate::error::{Error, Result, ResultExt};
use crate::kernel::{Isa, Window};
use crate::tower::cpu::{CpuDecoder, CpuEncoder};
use crate::tower::model::encoder_config::{EncoderConfig, Learned};
use crate::tower::model::encoder_weights::EncoderWeights;
use crate::tower::model::layer_weights::floats;
use crate::tower::model::pool::Want;
use crate::tower::{DecoderConfig, Sliding, WeightSource};
use crate::types::{Arithmetic, Pooling};

/// Several groups of attention, equal neighbours and single ones among them.
const LENGTHS: [usize; 14] = [1, 250, 64, 64, 64, 33, 3, 180, 97, 64, 7, 248, 12, 31];
/// Batches that are handed over before the first is asked for.
const IN_FLIGHT: usize = 5;

/// Least cosines: between two ways of computing in f32, and between two of which one computes in 16 bits.
const IN_F32: f32 = 0.99999;
const IN_HALF: f32 = 0.999;

/// Windows are no wider, so that the longest sequence leaves them.
const WIDEST: usize = 100;

/// Tries `device` on layers with the heads of `config`. It takes a few seconds and a few hundred MB.
///
/// # Errors
/// Internal, saying what differed; whatever the device reports.
pub(crate) fn test_decoder(config: &DecoderConfig, device: &Device, dtype: DType) -> Result<()> {
    let config = small(config);
    let weights = Random(1);
    try_decoder(&config, device, dtype, &weights, &weights).context(|| TRYING)
}

/// [`test_decoder`] of an encoder.
///
/// # Errors
/// As [`test_decoder`].
pub(crate) fn test_encoder(config: &EncoderConfig, device: &Device, dtype: DType) -> Result<()> {
    try_encoder(&small_encoder(config), device, dtype).context(|| TRYING)
}

const TRYING: &str = "trying the device before it gets the tower";

/// The same heads in fewer and narrower layers, which the processor computes too: one of each kind, where some slide, over
/// windows narrower than the longest sequence.
fn small(config: &DecoderConfig) -> DecoderConfig {
    let sliding = config.sliding.as_ref().map(|sliding| Sliding {
        before: sliding.before.min(WIDEST),
        after: sliding.after.min(WIDEST),
        layers: vec![true, sliding.layers.iter().all(|slides| *slides)],
        ..sliding.clone()
    });
    DecoderConfig {
        sliding,
        vocab_size: config.vocab_size.min(512),
        hidden_size: config.hidden_size.min(1024),
        intermediate_size: config.intermediate_size.min(2048),
        layers: config.layers.min(2),
        ..config.clone()
    }
}

/// [`small`] of an encoder, whose width goes by its heads: fewer of them.
fn small_encoder(config: &EncoderConfig) -> EncoderConfig {
    let heads = config.heads.min(4);
    let narrow = |window: Window| match window {
        Window::FULL => window,
        Window { before, after } => Window { before: before.min(WIDEST), after: after.min(WIDEST) },
    };
    let first = config.windows.first().copied().unwrap_or(Window::FULL);
    let other = config.windows.iter().copied().find(|window| *window != first).unwrap_or(first);
    let longest = config.max_positions.min(256);
    EncoderConfig {
        vocab_size: config.vocab_size.min(512),
        hidden: heads * config.head_dim(),
        inner: config.inner.min(1024),
        heads,
        layers: 2,
        windows: vec![narrow(first), narrow(other)],
        learned: config
            .learned
            .map(|learned| Learned { rows: longest + learned.offset, ..learned }),
        max_positions: longest,
        projected: None,
        ..config.clone()
    }
}

/// Pooled states in f32, as the processor computes them.
type Processor<'a> = dyn Fn(&[&[u32]], Pooling) -> Result<Vec<f32>> + 'a;
/// Loads the tower onto the device; whether attention may take the fused kernels.
type Load<'a> = dyn Fn(DType, bool) -> Result<Box<dyn TensorTower>> + 'a;

/// A small tower, and both of its engines.
struct Tried<'a> {
    vocabulary: usize,
    width: usize,
    longest: usize,
    processor: &'a Processor<'a>,
    load: &'a Load<'a>,
}

/// `expected` are the weights of the processor's decoder, those of the device but in a test of this test.
fn try_decoder(
    config: &DecoderConfig,
    device: &Device,
    dtype: DType,
    expected: &dyn WeightSource,
    weights: &dyn WeightSource,
) -> Result<()> {
    let longest = config.max_positions.min(256);
    let (vocabulary, width) = (config.vocab_size, config.hidden_size);
    let processor = |sequences: &[&[u32]], pooling: Pooling| {
        let (isa, f32) = (Isa::best(), Arithmetic::F32);
        let mut decoder = CpuDecoder::load(config, expected, 0, longest, isa, f32)?;
        Ok(decoder.run(sequences, pooling.into()))
    };
    let load = |dtype, flash| -> Result<Box<dyn TensorTower>> {
        Ok(Box::new(TensorDecoder::load(config, weights, device, dtype, longest, flash)?))
    };
    Tried { vocabulary, width, longest, processor: &processor, load: &load }.agrees(dtype)
}

fn try_encoder(config: &EncoderConfig, device: &Device, dtype: DType) -> Result<()> {
    let longest = config.max_positions;
    let (vocabulary, width) = (config.vocab_size, config.hidden);
    let read = |name: &str, shape: &[usize]| floats(&Random(1), name, shape);
    let weights = EncoderWeights { config, read: &read };
    let processor = |sequences: &[&[u32]], pooling: Pooling| {
        let (isa, f32) = (Isa::best(), Arithmetic::F32);
        Ok(CpuEncoder::load(&weights, pooling, 0, isa, f32)?.run(sequences))
    };
    let load = |dtype, flash| -> Result<Box<dyn TensorTower>> {
        Ok(Box::new(TensorEncoder::load(&weights, device, dtype, longest, flash)?))
    };
    Tried { vocabulary, width, longest, processor: &processor, load: &load }.agrees(dtype)
}

impl Tried<'_> {
    /// Compares every way of computing the same.
    fn agrees(&self, dtype: DType) -> Result<()> {
        let sequences = sequences(self.vocabulary, self.longest);
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let exact = (self.load)(DType::F32, true)?;
        let half = if dtype == DType::F32 { None } else { Some((self.load)(dtype, true)?) };
        let tower = half.as_deref().unwrap_or(&*exact);
        let name = format!("{dtype:?}").to_lowercase();
        let own = if dtype == DType::F32 { IN_F32 } else { IN_HALF };
        for pooling in [Pooling::LastToken, Pooling::Mean] {
            let want = pooling.into();
            let agree = |what: &str, found: &[f32], expected: &[f32], least| {
                agree(what, found, expected, self.width, least)
            };
            let packed = all(tower, &sequences, want)?;
            let in_f32 = all(&*exact, &sequences, want)?;
            let expected = (self.processor)(&sequences, pooling)?;
            agree("f32 on it and f32 on the processor", &in_f32, &expected, IN_F32)?;
            agree(&format!("{name} and f32 on it"), &packed, &in_f32, own)?;
            if tower.is_fused() {
                let composed = all(&*(self.load)(dtype, false)?, &sequences, want)?;
                agree("fused attention and composed attention", &packed, &composed, IN_HALF)?;
            }
            let mut alone = Vec::new();
            for &sequence in &sequences {
                alone.extend(all(tower, &[sequence], want)?);
            }
            agree("a text alone and among others", &packed, &alone, own)?;
            let reversed: Vec<&[u32]> = sequences.iter().rev().copied().collect();
            let reversed = all(tower, &reversed, want)?;
            let rows = reversed.chunks_exact(self.width).rev();
            let reversed: Vec<f32> = rows.flatten().copied().collect();
            agree("a batch and the same in reverse", &packed, &reversed, own)?;
            // Batches of other lengths each, so that what one overwrites of another shows.
            let batches = sequences.chunks(sequences.len().div_ceil(IN_FLIGHT));
            let mut serial = Vec::new();
            for batch in batches.clone() {
                serial.extend(all(tower, batch, want)?);
            }
            let started = batches.map(|batch| tower.start(batch, want));
            let mut pipelined = Vec::new();
            for landing in started.collect::<Result<Vec<_>>>()? {
                pipelined.extend(landing.wait()?.0);
            }
            agree("batches one by one and several in flight", &pipelined, &serial, own)?;
        }
        Ok(())
    }
}

fn all(tower: &dyn TensorTower, sequences: &[&[u32]], want: Want) -> Result<Vec<f32>> {
    Ok(tower.start(sequences, want)?.wait()?.0)
}

/// Refuses rows of which one has a smaller cosine than `least`.
fn agree(what: &str, found: &[f32], expected: &[f32], width: usize, least: f32) -> Result<()> {
    let cosine = |(a, b): (&[f32], &[f32])| {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
    };
    let rows = found.chunks_exact(width).zip(expected.chunks_exact(width));
    let cosines: Vec<f32> = rows.map(cosine).collect();
    let wrong = cosines.iter().copied().filter(|cosine| cosine.is_nan() || *cosine < least);
    let count = wrong.clone().count();
    if count == 0 && found.len() == expected.len() {
        return Ok(());
    }
    let worst = wrong.fold(f32::INFINITY, |a, b| if a < b { a } else { b });
    Err(Error::internal(format!(
        "the device computes wrong vectors: {what} agree to a cosine of {worst:.6} only in {count} of {} vectors, where \
         {least} is needed; nothing was encoded. A program that was built for another card does this (CUDA_COMPUTE_CAP), \
         and a faulty card or driver",
        cosines.len()
    )))
}

/// Token ids of several lengths.
fn sequences(vocabulary: usize, longest: usize) -> Vec<Vec<u32>> {
    let mut random = SmallRng::seed_from_u64(2);
    let mut ids = |length: usize| -> Vec<u32> {
        (0..length.min(longest)).map(|_| random.random_range(0..vocabulary as u32)).collect()
    };
    LENGTHS.iter().map(|length| ids(*length)).collect()
}

/// Weights that keep states about as large as they were.
struct Random(u64);

impl WeightSource for Random {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<candle_core::Tensor> {
        let seed = name
            .bytes()
            .fold(self.0, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut random = SmallRng::seed_from_u64(seed);
        let (mean, spread) = match shape {
            [_] if name.ends_with("bias") => (0., 0.1),
            [_] => (1., 0.2),
            _ => (0., (3. / shape.last().copied().unwrap_or(1) as f32).sqrt()),
        };
        let count = shape.iter().product();
        let values = std::iter::repeat_with(|| mean + spread * random.random_range(-1f32..1.));
        candle_core::Tensor::from_vec(values.take(count).collect(), shape, &Device::Cpu)
            .context(|| "wrapping random weights")
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tower::Gemma;
    use crate::tower::files::encoder;
    use crate::tower::model::pool::Pool;
    use crate::tower::tensor::staging::{Staging, late::Late};

    fn config() -> DecoderConfig {
        let tiny = crate::tower::testing::tiny_config();
        let config = crate::tower::files::config::from_json(tiny.as_object().unwrap()).unwrap();
        DecoderConfig { qk_norm: true, qkv_bias: true, max_positions: 256, ..config }
    }

    #[test]
    fn the_processor_passes() {
        for dtype in [DType::F32, DType::F16] {
            test_decoder(&config(), &Device::Cpu, dtype).unwrap();
        }
        // One that is tried in both of its kinds of layers.
        let layers = vec![true, true, false];
        for (causal, after) in [(true, 0), (false, 511)] {
            let layers = layers.clone();
            let sliding = Sliding { before: 511, after, layers, rope_theta: Some(500.) };
            let gemma = Gemma { query_scalar: 20., norms_from_one: true };
            let (sliding, gemma) = (Some(sliding), Some(gemma));
            let config = DecoderConfig { causal, sliding, gemma, qkv_bias: false, ..config() };
            let kinds: Vec<bool> = (0..2).map(|layer| small(&config).slides(layer)).collect();
            assert_eq!(kinds, [true, false]);
            test_decoder(&config, &Device::Cpu, DType::F32).unwrap();
        }
    }

    #[test]
    fn the_processor_passes_with_encoders() {
        for (family, local) in [("bert", 0), ("roberta", 0), ("mpnet", 0), ("modernbert", 300)] {
            let fields = serde_json::json!({
                "model_type": family, "vocab_size": 700, "hidden_size": 96, "intermediate_size": 144,
                "num_hidden_layers": 5, "num_attention_heads": 6, "max_position_embeddings": 600,
                "pad_token_id": 1, "local_attention": local,
            });
            let config = encoder::read(fields.as_object().unwrap(), |_| None).unwrap().unwrap();
            let seen: Vec<usize> =
                small_encoder(&config).windows.iter().map(|window| window.after).collect();
            let other = if local == 0 { usize::MAX } else { WIDEST };
            assert_eq!(seen, [usize::MAX, other]);
            for dtype in [DType::F32, DType::F16] {
                test_encoder(&config, &Device::Cpu, dtype).unwrap();
            }
        }
    }

    #[test]
    fn other_vectors_are_refused_and_named() {
        let (config, right, wrong) = (config(), Random(1), Random(3));
        let error = try_decoder(&config, &Device::Cpu, DType::F16, &right, &wrong).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("f32 on it and f32 on the processor agree to"), "{text}");

        agree("a and b", &[1., 0., 0., 2.], &[3., 0., 0., 1.], 2, 0.999).unwrap();
        for found in [[1., 0., 2., 2.], [1., 0., 0., f32::NAN], [1., 0., 0., 0.]] {
            let text = agree("a and b", &found, &[3., 0., 0., 1.], 2, 0.999).unwrap_err();
            assert!(text.to_string().contains("1 of 2 vectors"), "{text}");
        }
    }

    #[test]
    fn batches_staged_ahead_of_a_late_device_keep_their_vectors() {
        let (config, want) = (config(), Want::Pooled(Pool::Mean));
        let load = TensorDecoder::load(&config, &Random(1), &Device::Cpu, DType::F32, 256, true);
        let (tower, sequences) = (load.unwrap(), sequences(config.vocab_size, 256));
        let mut staging = Staging::new(Late::new(Duration::from_millis(5)));
        let mut in_flight = Vec::new();
        for batch in sequences.chunks(2) {
            let batch: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
            let planned = tower.plan(&batch, want).unwrap();
            let copied = staging.upload(&planned.words).unwrap();
            in_flight.push((all(&tower, &batch, want).unwrap(), planned, copied));
        }
        for (expected, planned, copied) in in_flight {
            let words = copied.recv().unwrap();
            let words = candle_core::Tensor::new(words, &Device::Cpu).unwrap();
            let states = tower.forward(planned, &words).unwrap();
            let states = states.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            agree("late and at once", &states, &expected, config.hidden_size, 0.999999).unwrap();
        }
    }

    #[test]
    fn a_batch_beyond_the_kernels_indices_is_refused() {
        let config = config();
        let load = TensorDecoder::load(&config, &Random(1), &Device::Cpu, DType::F32, 256, true);
        let tower = load.unwrap();
        let sequence = vec![1u32; 256];
        // 128 columns of gate and up: 2^31 elements, and one row more.
        let most = vec![sequence.as_slice(); (1 << 31) / 128 / 256];
        let more: Vec<&[u32]> = most.iter().copied().chain([&sequence[..1]]).collect();
        let error = tower.run(&more, Want::Last).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Resource);
        assert!(error.to_string().contains("encode.token_budget to 16777216"), "{error}");
        assert!(tower.plan(&more[more.len() - 9..], Want::Last).is_ok());
    }
}
