//! The packed decoder against candle-transformers' own models on the same random weights, and batch
//! invariance.

use std::collections::HashMap;

use candle_core::{D, DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scalingnote::error::{Error, ErrorKind, Result};
use scalingnote::tower::{Decoder, DecoderConfig, DeviceSpec, WeightSource, decoder_encoder};
use scalingnote::types::{Arithmetic, Embeddings, Pooling};

/// Random weights under Hugging Face names.
pub struct Random(HashMap<String, Tensor>);

impl WeightSource for Random {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.0.get(name).ok_or_else(|| Error::not_found(format!("tensor {name}")))?;
        assert_eq!(tensor.dims(), shape, "{name}");
        Ok(tensor.clone())
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// The vocabulary is as large as the hidden size, so that `lm_head` can be the identity and the logits of a
/// model that gives nothing else are its states.
pub fn config(family: &str) -> DecoderConfig {
    let base = DecoderConfig {
        family: family.into(),
        vocab_size: 96,
        hidden_size: 96,
        intermediate_size: 200,
        layers: 3,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.,
        rope_factors: None,
        rope_scale: 1.,
        qkv_bias: false,
        qk_norm: false,
        max_positions: 256,
        causal: true,
        sliding: None,
        gemma: None,
    };
    match family {
        "qwen2" => DecoderConfig { qkv_bias: true, rope_theta: 1e6, rms_norm_eps: 1e-6, ..base },
        // A head that is wider than hidden / heads, as Qwen3-0.6B has.
        "qwen3" => DecoderConfig { qk_norm: true, head_dim: 40, rope_theta: 1e6, ..base },
        _ => base,
    }
}

pub fn random(config: &DecoderConfig, seed: u64) -> Random {
    let mut rng = StdRng::seed_from_u64(seed);
    let c = config;
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let (h, f) = (c.hidden_size, c.intermediate_size);
    let mut tensors = HashMap::new();
    let mut put = |name: String, shape: &[usize], mean: f32, spread: f32| {
        let count = shape.iter().product();
        let data: Vec<f32> =
            (0..count).map(|_| mean + spread * (rng.random::<f32>() * 2. - 1.)).collect();
        tensors.insert(name, Tensor::from_vec(data, shape, &Device::Cpu).unwrap());
    };
    put("model.embed_tokens.weight".into(), &[c.vocab_size, h], 0., 1.);
    put("model.norm.weight".into(), &[h], 1., 0.3);
    for at in 0..c.layers {
        let name = |name: &str| format!("model.layers.{at}.{name}");
        put(name("input_layernorm.weight"), &[h], 1., 0.3);
        put(name("post_attention_layernorm.weight"), &[h], 1., 0.3);
        for (part, rows, columns) in [
            ("self_attn.q_proj", q, h),
            ("self_attn.k_proj", kv, h),
            ("self_attn.v_proj", kv, h),
            ("self_attn.o_proj", h, q),
            ("mlp.gate_proj", f, h),
            ("mlp.up_proj", f, h),
            ("mlp.down_proj", h, f),
        ] {
            put(name(&format!("{part}.weight")), &[rows, columns], 0., 0.25);
        }
        if c.qkv_bias {
            put(name("self_attn.q_proj.bias"), &[q], 0., 1.);
            put(name("self_attn.k_proj.bias"), &[kv], 0., 1.);
            put(name("self_attn.v_proj.bias"), &[kv], 0., 1.);
        }
        if c.qk_norm {
            put(name("self_attn.q_norm.weight"), &[c.head_dim], 1., 0.5);
            put(name("self_attn.k_norm.weight"), &[c.head_dim], 1., 0.5);
        }
    }
    Random(tensors)
}

/// Final-norm states `[tokens, hidden]` by candle-transformers.
fn reference(config: &DecoderConfig, weights: &Random, ids: &[u32]) -> Tensor {
    let c = config;
    let mut tensors = weights.0.clone();
    let identity = Tensor::eye(c.hidden_size, DType::F32, &Device::Cpu).unwrap();
    tensors.insert("lm_head.weight".into(), identity);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let input = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let act = candle_nn::Activation::Silu;
    match c.family.as_str() {
        "llama" => {
            let cfg = llama::Config {
                hidden_size: c.hidden_size,
                intermediate_size: c.intermediate_size,
                vocab_size: c.vocab_size,
                num_hidden_layers: c.layers,
                num_attention_heads: c.heads,
                num_key_value_heads: c.kv_heads,
                use_flash_attn: false,
                rms_norm_eps: c.rms_norm_eps,
                rope_theta: c.rope_theta as f32,
                bos_token_id: None,
                eos_token_id: None,
                rope_scaling: c.rope_factors.as_ref().map(|_| llama3()),
                max_position_embeddings: c.max_positions,
                tie_word_embeddings: false,
            };
            let model = llama::Llama::load(vb, &cfg).unwrap();
            // Logits of the last position only: ask for every prefix.
            let rows: Vec<Tensor> = (1..=ids.len())
                .map(|end| {
                    let mut cache =
                        llama::Cache::new(false, DType::F32, &cfg, &Device::Cpu).unwrap();
                    model.forward(&input.i((.., ..end)).unwrap(), 0, &mut cache).unwrap()
                })
                .collect();
            Tensor::cat(&rows, 0).unwrap()
        }
        "mistral" => {
            let cfg = mistral::Config {
                vocab_size: c.vocab_size,
                hidden_size: c.hidden_size,
                intermediate_size: c.intermediate_size,
                num_hidden_layers: c.layers,
                num_attention_heads: c.heads,
                head_dim: Some(c.head_dim),
                num_key_value_heads: c.kv_heads,
                hidden_act: act,
                max_position_embeddings: c.max_positions,
                rms_norm_eps: c.rms_norm_eps,
                rope_theta: c.rope_theta,
                sliding_window: None,
                use_flash_attn: false,
            };
            let rows: Vec<Tensor> = (1..=ids.len())
                .map(|end| {
                    let mut model = mistral::Model::new(&cfg, vb.clone()).unwrap();
                    let logits = model.forward(&input.i((.., ..end)).unwrap(), 0).unwrap();
                    logits.reshape((1, ())).unwrap()
                })
                .collect();
            Tensor::cat(&rows, 0).unwrap()
        }
        "qwen2" => {
            let cfg = qwen2::Config {
                vocab_size: c.vocab_size,
                hidden_size: c.hidden_size,
                intermediate_size: c.intermediate_size,
                num_hidden_layers: c.layers,
                num_attention_heads: c.heads,
                num_key_value_heads: c.kv_heads,
                max_position_embeddings: c.max_positions,
                sliding_window: c.max_positions,
                max_window_layers: c.layers,
                tie_word_embeddings: true,
                rope_theta: c.rope_theta,
                rms_norm_eps: c.rms_norm_eps,
                use_sliding_window: false,
                hidden_act: act,
            };
            let mut model = qwen2::Model::new(&cfg, vb).unwrap();
            model.forward(&input, 0, None).unwrap().squeeze(0).unwrap()
        }
        "qwen3" => {
            let cfg = qwen3::Config {
                vocab_size: c.vocab_size,
                hidden_size: c.hidden_size,
                intermediate_size: c.intermediate_size,
                num_hidden_layers: c.layers,
                num_attention_heads: c.heads,
                head_dim: c.head_dim,
                attention_bias: false,
                num_key_value_heads: c.kv_heads,
                max_position_embeddings: c.max_positions,
                sliding_window: None,
                max_window_layers: c.layers,
                tie_word_embeddings: true,
                rope_theta: c.rope_theta,
                rms_norm_eps: c.rms_norm_eps,
                use_sliding_window: false,
                hidden_act: act,
            };
            let mut model = qwen3::Model::new(&cfg, vb).unwrap();
            model.forward(&input, 0).unwrap().squeeze(0).unwrap()
        }
        other => panic!("no reference for {other}"),
    }
}

fn llama3() -> llama::Llama3RopeConfig {
    llama::Llama3RopeConfig {
        factor: 8.,
        low_freq_factor: 1.,
        high_freq_factor: 4.,
        original_max_position_embeddings: 64,
        rope_type: llama::Llama3RopeType::Llama3,
    }
}

/// Divisors of the rotary frequencies as Llama 3.1 defines them, written again from its paper's code.
fn llama3_factors(config: &DecoderConfig) -> Vec<f32> {
    let scaling = llama3();
    let old = scaling.original_max_position_embeddings as f32;
    (0..config.head_dim / 2)
        .map(|i| {
            let exponent = 2. * i as f32 / config.head_dim as f32;
            let wavelength = 2. * std::f32::consts::PI * (config.rope_theta as f32).powf(exponent);
            if wavelength < old / scaling.high_freq_factor {
                1.
            } else if wavelength > old / scaling.low_freq_factor {
                scaling.factor
            } else {
                let smooth = (old / wavelength - scaling.low_freq_factor)
                    / (scaling.high_freq_factor - scaling.low_freq_factor);
                1. / ((1. - smooth) / scaling.factor + smooth)
            }
        })
        .collect()
}

pub fn sequences(config: &DecoderConfig, lengths: &[usize], seed: u64) -> Vec<Vec<u32>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ids = |n| (0..n).map(|_| rng.random_range(0..config.vocab_size as u32)).collect();
    lengths.iter().map(|n| ids(*n)).collect()
}

pub fn slices(sequences: &[Vec<u32>]) -> Vec<&[u32]> {
    sequences.iter().map(Vec::as_slice).collect()
}

/// Smallest cosine and largest absolute difference over rows.
fn compare(ours: &Tensor, theirs: &Tensor) -> (f32, f32) {
    assert_eq!(ours.dims(), theirs.dims());
    let dot = (ours * theirs).unwrap().sum(D::Minus1).unwrap();
    let norm = |x: &Tensor| x.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap();
    let cosine = (dot / (norm(ours) * norm(theirs)).unwrap()).unwrap();
    let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap();
    (cosine.min_all().unwrap().to_scalar().unwrap(), difference.to_scalar().unwrap())
}

fn load(config: &DecoderConfig, weights: &Random, threads: usize) -> Decoder {
    let device = DeviceSpec::Cpu { threads };
    Decoder::load(config, weights, &device, Arithmetic::F32, 256).unwrap()
}

fn parity(config: &DecoderConfig) {
    let weights = random(config, 7);
    let sequences = sequences(config, &[1, 37, 2, 90, 14, 33, 64], 11);
    let expected: Vec<Tensor> =
        sequences.iter().map(|ids| reference(config, &weights, ids)).collect();
    let expected = Tensor::cat(&expected, 0).unwrap();
    for (name, mut decoder) in [
        ("cpu kernels", load(config, &weights, 2)),
        (
            "candle tensors",
            Decoder::load_on_tensors(config, &weights, Arithmetic::F32, 256).unwrap(),
        ),
    ] {
        let ours = decoder.hidden(&slices(&sequences)).unwrap();
        let (cosine, difference) = compare(&ours, &expected);
        println!("{} on {name}: cosine {cosine}, difference {difference}", config.family);
        assert!(cosine >= 0.9999 && difference < 1e-3, "{name}: {cosine}, {difference}");
    }
}

#[test]
fn llama_with_grouped_heads_matches_candle() {
    parity(&config("llama"));
}

#[test]
fn llama3_rope_scaling_matches_candle() {
    let mut config = config("llama");
    config.rope_factors = Some(llama3_factors(&config));
    parity(&config);
}

#[test]
fn mistral_matches_candle() {
    parity(&config("mistral"));
}

#[test]
fn qwen2_with_bias_matches_candle() {
    parity(&config("qwen2"));
}

#[test]
fn qwen3_with_head_norm_matches_candle() {
    parity(&config("qwen3"));
}

#[test]
fn pooling_is_the_mean_and_the_last_row_of_the_states() {
    let config = config("qwen3");
    let weights = random(&config, 3);
    let sequences = sequences(&config, &[5, 1, 40, 17], 4);
    let states: Vec<Vec<f32>> =
        load(&config, &weights, 2).hidden(&slices(&sequences)).unwrap().to_vec2().unwrap();
    let mut start = 0;
    let (mut means, mut lasts) = (Vec::new(), Vec::new());
    for ids in &sequences {
        let rows = &states[start..start + ids.len()];
        start += ids.len();
        lasts.push(rows[rows.len() - 1].clone());
        let mean = |d: usize| rows.iter().map(|row| row[d]).sum::<f32>() / rows.len() as f32;
        means.push((0..config.hidden_size).map(mean).collect::<Vec<_>>());
    }
    for tensors in [false, true] {
        for (pooling, expected) in
            [(Pooling::Mean, &means), (Pooling::LastToken, &lasts), (Pooling::Eos, &lasts)]
        {
            let decoder = if tensors {
                Decoder::load_on_tensors(&config, &weights, Arithmetic::F32, 256).unwrap()
            } else {
                load(&config, &weights, 2)
            };
            let mut encoder = decoder_encoder(decoder, pooling, None, false);
            let ours = encoder.encode(&slices(&sequences)).unwrap();
            for (ours, expected) in ours.rows().zip(expected) {
                for (a, b) in ours.iter().zip(expected) {
                    assert!((a - b).abs() < 2e-5, "{pooling:?}, tensors {tensors}: {a} and {b}");
                }
            }
        }
    }
}

fn encode(decoder: Decoder, pooling: Pooling, sequences: &[&[u32]]) -> Embeddings {
    decoder_encoder(decoder, pooling, None, true).encode(sequences).unwrap()
}

#[test]
fn a_vector_does_not_depend_on_its_neighbours() {
    for family in ["llama", "qwen2", "qwen3"] {
        let config = config(family);
        let weights = random(&config, 5);
        let owned = sequences(&config, &[1, 13, 14, 15, 28, 29, 31, 32, 33, 63, 64, 65, 200, 7], 6);
        let all = slices(&owned);
        for pooling in [Pooling::Mean, Pooling::LastToken] {
            let packed = encode(load(&config, &weights, 1), pooling, &all);
            // Bit for bit: every element is one chain of operations in an order of its own.
            for (at, ids) in all.iter().enumerate() {
                let alone = encode(load(&config, &weights, 1), pooling, &[ids]);
                assert_eq!(
                    alone.row(0),
                    packed.row(at),
                    "{family} {pooling:?}: sequence {at} alone"
                );
                let long = [&owned[12][..], ids, &owned[11][..]];
                let beside = encode(load(&config, &weights, 2), pooling, &long);
                assert_eq!(beside.row(1), packed.row(at), "{family}: {at} with longer neighbours");
            }
            let reversed: Vec<&[u32]> = all.iter().rev().copied().collect();
            let reversed = encode(load(&config, &weights, 3), pooling, &reversed);
            for at in 0..all.len() {
                let row = reversed.row(all.len() - 1 - at);
                assert_eq!(row, packed.row(at), "{family}: {at} reordered, three threads");
            }
        }
    }
}

#[test]
fn matryoshka_cut_comes_before_the_norm() {
    let config = config("llama");
    let weights = random(&config, 8);
    let owned = sequences(&config, &[9, 3], 1);
    let full = decoder_encoder(load(&config, &weights, 1), Pooling::Mean, None, false)
        .encode(&slices(&owned))
        .unwrap();
    let cut = decoder_encoder(load(&config, &weights, 1), Pooling::Mean, Some(24), true)
        .encode(&slices(&owned))
        .unwrap();
    assert_eq!((cut.dimensions(), cut.len()), (24, 2));
    for (full, cut) in full.rows().zip(cut.rows()) {
        let norm = full[..24].iter().map(|x| x * x).sum::<f32>().sqrt();
        for (a, b) in full.iter().zip(cut) {
            assert!((a / norm - b).abs() < 1e-6);
        }
    }
    let too_many = decoder_encoder(load(&config, &weights, 1), Pooling::Mean, Some(97), true)
        .encode(&slices(&owned))
        .unwrap_err();
    assert_eq!(too_many.kind(), ErrorKind::Config);
}

#[test]
fn what_cannot_work_is_refused_with_a_reason() {
    let good = config("llama");
    let weights = random(&good, 8);
    let cpu = DeviceSpec::Cpu { threads: 1 };
    let refuse = |config: &DecoderConfig, device: &DeviceSpec, arithmetic, max_tokens| {
        let error = Decoder::load(config, &weights, device, arithmetic, max_tokens).err().unwrap();
        (error.kind(), error.to_string())
    };
    let (kind, text) = refuse(&good, &cpu, Arithmetic::F16, 64);
    assert!(kind == ErrorKind::Unsupported && text.contains("int8"), "{text}");
    let odd = DecoderConfig { family: "gpt2".into(), ..good.clone() };
    let (kind, text) = refuse(&odd, &cpu, Arithmetic::F32, 64);
    assert!(kind == ErrorKind::Unsupported && text.contains("gpt2") && text.contains("qwen3"));
    let odd = DecoderConfig { heads: 5, ..good.clone() };
    assert_eq!(refuse(&odd, &cpu, Arithmetic::F32, 64).0, ErrorKind::Input);
    let odd = DecoderConfig { rope_factors: Some(vec![1.; 3]), ..good.clone() };
    assert_eq!(refuse(&odd, &cpu, Arithmetic::F32, 64).0, ErrorKind::Input);
    assert_eq!(refuse(&good, &cpu, Arithmetic::F32, 257).0, ErrorKind::Config);
    let odd = DecoderConfig { layers: 4, ..good.clone() };
    assert_eq!(refuse(&odd, &cpu, Arithmetic::F32, 64).0, ErrorKind::NotFound);

    let mut decoder = load(&good, &weights, 1);
    let long = vec![1; 257];
    for bad in [&[][..], &[96], &long] {
        let error = decoder.hidden(&[&[1, 2], bad]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    }
    assert_eq!(decoder.hidden(&[]).unwrap().dims(), &[0, 96]);
    assert!(encode(decoder, Pooling::Mean, &[]).is_empty());
}
