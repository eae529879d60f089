//! Whether a device computes what it should, tried on random layers before it gets a tower: kernels that were not made
//! for a card leave memory as it was and report nothing, and a batch that overtakes another gives finite vectors.

use candle_core::{DType, Device};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::decoder::TensorDecoder;
use crate::error::{Error, Result, ResultExt};
use crate::kernel::Isa;
use crate::tower::cpu::CpuDecoder;
use crate::tower::model::pool::{Pool, Want};
use crate::tower::{DecoderConfig, Sliding, WeightSource};
use crate::types::Arithmetic;

/// Several groups of attention, equal neighbours and single ones among them.
const LENGTHS: [usize; 14] = [1, 250, 64, 64, 64, 33, 3, 180, 97, 64, 7, 248, 12, 31];
/// Batches that are handed over before the first is asked for.
const IN_FLIGHT: usize = 5;

/// Least cosines: between two ways of computing in f32, and between two of which one computes in 16 bits.
const IN_F32: f32 = 0.99999;
const IN_HALF: f32 = 0.999;

/// Tries `device` on layers with the heads of `config`. It takes a few seconds and a few hundred MB.
///
/// # Errors
/// Internal, saying what differed; whatever the device reports.
pub(crate) fn self_test(config: &DecoderConfig, device: &Device, dtype: DType) -> Result<()> {
    let config = small(config);
    let weights = Random(1);
    try_device(&config, device, dtype, &weights, &weights)
        .context(|| "trying the device before it gets the tower")
}

/// The same heads in fewer and narrower layers, which the processor computes too: one of each kind, where some slide, over
/// windows narrower than the longest sequence.
fn small(config: &DecoderConfig) -> DecoderConfig {
    let sliding = config.sliding.as_ref().map(|sliding| Sliding {
        before: sliding.before.min(100),
        after: sliding.after.min(100),
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

/// `expected` are the weights of the processor's decoder, those of the device but in a test of this test.
fn try_device(
    config: &DecoderConfig,
    device: &Device,
    dtype: DType,
    expected: &dyn WeightSource,
    weights: &dyn WeightSource,
) -> Result<()> {
    let longest = config.max_positions.min(256);
    let sequences = sequences(config.vocab_size, longest);
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let load = |dtype, flash| TensorDecoder::load(config, weights, device, dtype, longest, flash);
    let (isa, f32) = (Isa::best(), Arithmetic::F32);
    let mut processor = CpuDecoder::load(config, expected, 0, longest, isa, f32)?;
    let exact = load(DType::F32, true)?;
    let half = if dtype == DType::F32 { None } else { Some(load(dtype, true)?) };
    let tower = half.as_ref().unwrap_or(&exact);
    let name = format!("{dtype:?}").to_lowercase();
    let own = if dtype == DType::F32 { IN_F32 } else { IN_HALF };
    for want in [Want::Last, Want::Pooled(Pool::Mean)] {
        let agree = |what: &str, found: &[f32], expected: &[f32], least| {
            agree(what, found, expected, config.hidden_size, least)
        };
        let packed = all(tower, &sequences, want)?;
        let in_f32 = all(&exact, &sequences, want)?;
        let expected = processor.run(&sequences, want);
        agree("f32 on it and f32 on the processor", &in_f32, &expected, IN_F32)?;
        agree(&format!("{name} and f32 on it"), &packed, &in_f32, own)?;
        if tower.is_fused() {
            let composed = all(&load(dtype, false)?, &sequences, want)?;
            agree("fused attention and composed attention", &packed, &composed, IN_HALF)?;
        }
        let mut alone = Vec::new();
        for &sequence in &sequences {
            alone.extend(all(tower, &[sequence], want)?);
        }
        agree("a text alone and among others", &packed, &alone, own)?;
        let reversed: Vec<&[u32]> = sequences.iter().rev().copied().collect();
        let reversed = all(tower, &reversed, want)?;
        let rows = reversed.chunks_exact(config.hidden_size).rev();
        let reversed: Vec<f32> = rows.flatten().copied().collect();
        agree("a batch and the same in reverse", &packed, &reversed, own)?;
        // Batches of other lengths each, so that what one overwrites of another shows.
        let batches = sequences.chunks(sequences.len().div_ceil(IN_FLIGHT));
        let mut serial = Vec::new();
        for batch in batches.clone() {
            serial.extend(all(tower, batch, want)?);
        }
        let started = batches.map(|batch| tower.start(batch, want)).collect::<Result<Vec<_>>>()?;
        let mut pipelined = Vec::new();
        for landing in started {
            pipelined.extend(landing.wait()?.0);
        }
        agree("batches one by one and several in flight", &pipelined, &serial, own)?;
    }
    Ok(())
}

fn all(tower: &TensorDecoder, sequences: &[&[u32]], want: Want) -> Result<Vec<f32>> {
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
    use crate::tower::tensor::staging::{Staging, late::Late};

    fn config() -> DecoderConfig {
        let tiny = crate::tower::testing::tiny_config();
        let config = crate::tower::files::config::from_json(tiny.as_object().unwrap()).unwrap();
        DecoderConfig { qk_norm: true, qkv_bias: true, max_positions: 256, ..config }
    }

    #[test]
    fn the_processor_passes() {
        for dtype in [DType::F32, DType::F16] {
            self_test(&config(), &Device::Cpu, dtype).unwrap();
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
            self_test(&config, &Device::Cpu, DType::F32).unwrap();
        }
    }

    #[test]
    fn other_vectors_are_refused_and_named() {
        let (config, right, wrong) = (config(), Random(1), Random(3));
        let error = try_device(&config, &Device::Cpu, DType::F16, &right, &wrong).unwrap_err();
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
