//! The encoder's kernels beside candle-transformers' layers.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde_json::{Value, json};

use crate::kernel::Isa;
use crate::tower::cpu::CpuEncoder;
use crate::tower::files::encoder;
use crate::tower::model::encoder_weights::EncoderWeights;
use crate::types::{Arithmetic, Pooling};

const VOCABULARY: usize = 50;
const POSITIONS: usize = 300;
const DIMENSIONS: usize = 20;

// Widths that divide by no panel and no block.
const HIDDEN: usize = 60;
const INNER: usize = 90;
const HEADS: usize = 4;
const LAYERS: usize = 2;

fn config(activation: &str) -> Value {
    json!({
        "model_type": "bert", "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER,
        "hidden_act": activation, "hidden_dropout_prob": 0.0, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    })
}

/// Every tensor: (shape, values).
fn weights() -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    // About normal: the sum of twelve numbers of a linear congruential generator.
    let mut state = 8u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut normal = || (0..12).map(|_| uniform()).sum::<f32>();
    let mut all = HashMap::new();
    let mut add = |name: String, shape: &[usize], around: f32, scale: f32| {
        let count = shape.iter().product();
        let data = (0..count).map(|_| around + scale * normal()).collect();
        all.insert(name, (shape.to_vec(), data));
    };
    let (h, inner) = (HIDDEN, INNER);
    for (table, rows) in [("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)] {
        add(format!("embeddings.{table}_embeddings.weight"), &[rows, h], 0.0, 1.0);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..LAYERS {
        for (part, n, k) in [
            ("attention.self.query", h, h),
            ("attention.self.key", h, h),
            ("attention.self.value", h, h),
            ("attention.output.dense", h, h),
            ("intermediate.dense", inner, h),
            ("output.dense", h, inner),
        ] {
            let name = format!("encoder.layer.{layer}.{part}");
            add(format!("{name}.weight"), &[n, k], 0.0, 0.2);
            add(format!("{name}.bias"), &[n], 0.0, 0.2);
        }
        norms.push(format!("encoder.layer.{layer}.attention.output.LayerNorm"));
        norms.push(format!("encoder.layer.{layer}.output.LayerNorm"));
    }
    for norm in norms {
        add(format!("{norm}.weight"), &[h], 1.0, 0.2);
        add(format!("{norm}.bias"), &[h], 0.0, 0.2);
    }
    add("projection.weight".into(), &[DIMENSIONS, h], 0.0, 0.2);
    all
}

/// Lengths from one token to several blocks of queries, enough of them for several groups.
fn sequences() -> Vec<Vec<u32>> {
    let lengths = [1u32, 13, 45, 2, 300, 130, 7, 290, 280, 33];
    lengths.iter().map(|n| (0..*n).map(|i| (i * i + n) % VOCABULARY as u32).collect()).collect()
}

fn ours(activation: &str, threads: usize, arithmetic: Arithmetic) -> CpuEncoder {
    let all = weights();
    let read = |name: &str, shape: &[usize]| {
        let (found, data) = &all[name];
        assert_eq!(found, shape, "{name}");
        Ok(data.clone())
    };
    let fields = config(activation);
    let shape = |name: &str| all.get(name).map(|(shape, _)| shape.as_slice());
    let config = encoder::read(fields.as_object().unwrap(), shape).unwrap().unwrap();
    let weights = EncoderWeights { config: &config, read: &read };
    CpuEncoder::load(&weights, Pooling::Mean, threads, Isa::best(), arithmetic).unwrap()
}

/// Projected means by candle-transformers, one sequence at a time.
fn theirs(activation: &str, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    let device = Device::Cpu;
    let mut tensors: HashMap<String, Tensor> = weights()
        .into_iter()
        .map(|(name, (shape, data))| (name, Tensor::from_vec(data, shape, &device).unwrap()))
        .collect();
    let projection = tensors.remove("projection.weight").unwrap();
    let config: Config = serde_json::from_value(config(activation)).unwrap();
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &device);
    let model = BertModel::load(builder, &config).unwrap();
    let vector = |ids: &&[u32]| {
        let ids = Tensor::from_slice(ids, (1, ids.len()), &device).unwrap();
        let states = model.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
        let mean = states.mean(1).unwrap();
        mean.matmul(&projection.t().unwrap()).unwrap().to_vec2::<f32>().unwrap().remove(0)
    };
    sequences.iter().map(vector).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn vectors_are_those_of_candle_transformers() {
    let owned = sequences();
    let sequences: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
    for name in ["gelu", "geluapproximate", "relu"] {
        let expected = theirs(name, &sequences);
        for threads in [1, 3] {
            let rows = ours(name, threads, Arithmetic::F32).run(&sequences);
            assert_eq!(rows.len(), sequences.len() * DIMENSIONS);
            for (row, expected) in rows.chunks_exact(DIMENSIONS).zip(&expected) {
                let near = row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-4);
                assert!(near, "{name}, {threads} threads: {row:?} {expected:?}");
            }
        }
    }
}

#[test]
fn narrow_arithmetic_stays_near_and_neighbours_change_nothing() {
    let owned = sequences();
    let sequences: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
    let exact = ours("gelu", 1, Arithmetic::F32).run(&sequences);
    for (arithmetic, least) in
        [(Arithmetic::F32, 0.999_999), (Arithmetic::Bf16, 0.999), (Arithmetic::Int8, 0.995)]
    {
        let mut encoder = ours("gelu", 2, arithmetic);
        let rows = encoder.run(&sequences);
        for (at, row) in rows.chunks_exact(DIMENSIONS).enumerate() {
            let found = cosine(row, &exact[at * DIMENSIONS..][..DIMENSIONS]);
            assert!(found >= least, "{arithmetic:?}, sequence {at}: {found}");
            assert_eq!(encoder.run(&[sequences[at]]), row, "{arithmetic:?}: alone and packed");
        }
    }
}
