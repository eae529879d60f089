//! A decoder on this machine's processor: weights packed at load, a group of whole sequences at a time for each thread.

use super::format::best;
use super::groups::{self, Batch};
use super::model::{Model, Workspace};
use crate::error::Result;
use crate::kernel::{Format, Isa};
use crate::tower::model::pool::Want;
use crate::tower::{DecoderConfig, WeightSource};
use crate::types::Arithmetic;

/// A loaded decoder and the working memory of its threads.
pub(crate) struct CpuDecoder {
    model: Model,
    /// Tokens that a thread takes through the layers at once.
    group_tokens: usize,
    workspaces: Vec<Workspace>,
}

impl CpuDecoder {
    /// Reads and packs all weights, layers in parallel. `threads` 0: all of the machine.
    ///
    /// # Errors
    /// Unsupported for f16; whatever the source reports.
    pub(crate) fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        threads: usize,
        max_tokens: usize,
        isa: Isa,
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let format = best(arithmetic, isa)?;
        Self::load_as(config, source, threads, max_tokens, isa, format)
    }

    /// [`CpuDecoder::load`] with weights in a given format.
    fn load_as(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        threads: usize,
        max_tokens: usize,
        isa: Isa,
        format: Format,
    ) -> Result<Self> {
        let threads = groups::threads(threads);
        let model = Model::load(config, source, threads, max_tokens, (isa, format))?;
        let workspaces = (0..threads).map(|_| Workspace::default()).collect();
        Ok(Self { model, group_tokens: format.group_tokens(), workspaces })
    }

    /// Final-norm states: of every token in order ([`Want::All`]), or one pooled row per sequence. A row's
    /// bits depend on its own sequence only.
    pub(crate) fn run(&mut self, sequences: &[&[u32]], want: Want) -> Vec<f32> {
        let model = &self.model;
        let width = model.config.hidden_size;
        let batch = Batch { sequences, group_tokens: self.group_tokens, width };
        batch.run(
            &mut self.workspaces,
            |length| model.cost(length),
            |sequence| if want == Want::All { sequence.len() } else { 1 },
            |workspace, members| model.forward(workspace, members, want),
        )
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::format::available;
    use super::*;
    use crate::error::ErrorKind;
    use crate::tower::model::pool::Pool;
    use crate::tower::tensor::{TensorDecoder, TensorTower};
    use crate::tower::{Gemma, Sliding};

    /// Weights made from a hash of their name: the same on every call.
    struct Hashed;

    impl WeightSource for Hashed {
        fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
            let mut state =
                name.bytes().fold(1u64, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
            let data: Vec<f32> = (0..shape.iter().product())
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let x = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                    if name.ends_with("norm.weight") { 1. + x } else { x * 0.4 }
                })
                .collect();
            Ok(Tensor::from_vec(data, shape, &Device::Cpu).unwrap())
        }

        fn contains(&self, _: &str) -> bool {
            true
        }
    }

    // Widths that divide by no panel and no block, an input longer than one block of k.
    fn config() -> DecoderConfig {
        DecoderConfig {
            family: "qwen3".into(),
            vocab_size: 50,
            hidden_size: 90,
            intermediate_size: 801,
            layers: 2,
            heads: 6,
            kv_heads: 3,
            head_dim: 34,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.,
            rope_factors: None,
            rope_scale: 1.,
            qkv_bias: true,
            qk_norm: true,
            max_positions: 512,
            causal: true,
            sliding: None,
            gemma: None,
        }
    }

    /// With sliding layers narrower and wider than a vector, of positions of their own.
    fn gemma(causal: bool) -> DecoderConfig {
        let after = if causal { 0 } else { 20 };
        let layers = vec![true, false];
        DecoderConfig {
            family: "gemma3_text".into(),
            qkv_bias: false,
            causal,
            sliding: Some(Sliding { before: 20, after, layers, rope_theta: Some(500.) }),
            gemma: Some(Gemma { query_scalar: 20., norms_from_one: true }),
            ..config()
        }
    }

    /// Several groups of sequences.
    fn sequences() -> Vec<Vec<u32>> {
        let lengths = [1u32, 45, 130, 300, 16, 400];
        lengths.iter().map(|n| (0..*n).map(|i| (i * i + n) % 50).collect()).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_states() {
        let pools = [Pool::Mean, Pool::MeanSqrtLen, Pool::WeightedMean, Pool::Max];
        let wants = [Want::All, Want::First, Want::Last].into_iter();
        same_states(&config(), wants.chain(pools.map(Want::Pooled)));
        for causal in [true, false] {
            same_states(&gemma(causal), [Want::All, Want::Last].into_iter());
        }
    }

    fn same_states(config: &DecoderConfig, wants: impl Iterator<Item = Want>) {
        let owned = sequences();
        let sequences: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
        let tensors =
            TensorDecoder::load(config, &Hashed, &Device::Cpu, candle_core::DType::F32, 512, true)
                .unwrap();
        for want in wants {
            let expected: Vec<f32> =
                tensors.run(&sequences, want).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let mut decoder =
                        CpuDecoder::load(config, &Hashed, threads, 512, isa, Arithmetic::F32)
                            .unwrap();
                    let states = decoder.run(&sequences, want);
                    assert_eq!(states.len(), expected.len());
                    for (a, b) in states.iter().zip(&expected) {
                        assert!((a - b).abs() < 2e-4, "{isa:?} {want:?}: {a} and {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn narrow_arithmetic_stays_near_f32_and_invariant_of_the_batch() {
        let (config, owned) = (config(), sequences());
        let sequences: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
        let load = |isa, format, threads| {
            CpuDecoder::load_as(&config, &Hashed, threads, 512, isa, format).unwrap()
        };
        let cosine = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let exact = load(Isa::best(), Format::F32(Isa::best()), 1)
            .run(&sequences, Want::Pooled(Pool::Mean));
        for (arithmetic, least) in [(Arithmetic::Bf16, 0.9999), (Arithmetic::Int8, 0.999)] {
            let formats = Isa::available().into_iter().flat_map(|isa| {
                let formats = available(arithmetic, isa).into_iter();
                formats.map(move |format| (isa, format))
            });
            for (isa, format) in formats {
                let mut decoder = load(isa, format, 3);
                let packed = decoder.run(&sequences, Want::Pooled(Pool::Mean));
                for (at, row) in packed.chunks_exact(config.hidden_size).enumerate() {
                    let exact = &exact[at * config.hidden_size..][..config.hidden_size];
                    let cosine = cosine(row, exact);
                    assert!(cosine >= least, "{format:?} {isa:?} sequence {at}: {cosine}");
                    assert_eq!(
                        decoder.run(&[sequences[at]], Want::Pooled(Pool::Mean)),
                        row,
                        "alone and packed"
                    );
                }
            }
        }
        let refused = CpuDecoder::load(&config, &Hashed, 1, 512, Isa::best(), Arithmetic::F16);
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::Unsupported);
    }
}
