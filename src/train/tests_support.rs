//! A tiny random model and pairs for unit tests.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};

use super::contrast::{Side, TrainData, TrainOptions};
use super::model::decoder::{Decoder, Precision, Trainable};
use super::tensors::read_backs;
use crate::dataset::{Pair, PairSet, PairSource, SplitMix64};
use crate::error::Result;
use crate::observe::{Event, Reporter, Silent};
use crate::tower::{DecoderConfig, TowerOptions, WeightSource};
use crate::types::Pooling;

pub(super) fn silent() -> Arc<dyn Reporter> {
    Arc::new(Silent)
}

/// The number of a tensor without dimensions.
pub(super) fn scalar(tensor: &Tensor) -> f32 {
    tensor.to_scalar().unwrap()
}

/// Counts how often each step reads numbers back. The run reports from the thread that it is on.
#[derive(Default)]
pub(super) struct ReadBacks(Mutex<Vec<u64>>);

impl Reporter for ReadBacks {
    fn event(&self, event: Event) {
        if let Event::Progress { .. } = event {
            self.0.lock().unwrap().push(read_backs());
        }
    }
}

impl ReadBacks {
    /// Of every step but the first, before which other things are read.
    pub(super) fn of_steps(&self) -> Vec<u64> {
        self.0.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

pub(super) fn tiny_config(family: &str) -> DecoderConfig {
    DecoderConfig {
        family: family.into(),
        vocab_size: 97,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_factors: None,
        rope_scale: 1.,
        qkv_bias: family == "qwen2",
        qk_norm: family == "qwen3",
        max_positions: 128,
        causal: true,
        sliding: None,
        gemma: None,
    }
}

/// Element `index` of the tensor `name`, in [-1, 1): a hash that numpy computes alike (tests/python/train_golden.py).
pub(super) fn hashed(name: &str, index: usize) -> f32 {
    let start =
        name.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
    let mut x = (index as u32).wrapping_mul(2_654_435_761).wrapping_add(start);
    for factor in [0x85EB_CA6Bu32, 0xC2B2_AE35] {
        x = (x ^ (x >> 15)).wrapping_mul(factor);
    }
    x ^= x >> 16;
    (f64::from(x) / 2f64.powi(31) - 1.0) as f32
}

/// The tensors of a safetensors file.
pub(super) fn tensors(path: impl AsRef<Path>) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Weights drawn from their names: the same on every call.
pub(super) struct RandomWeights;

impl WeightSource for RandomWeights {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (offset, scale) = match name {
            _ if name.contains("norm") => (1.0, 0.25),
            _ if name.contains("embed") => (0.0, 1.0),
            _ => (0.0, 0.25),
        };
        let count = shape.iter().product();
        let data: Vec<f32> = (0..count).map(|i| offset + scale * hashed(name, i)).collect();
        Ok(Tensor::from_vec(data, shape, &Device::Cpu).unwrap())
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

pub(super) fn tiny_options() -> TrainOptions {
    let tower =
        TowerOptions { max_tokens: Some(16), ..TowerOptions::new("tiny", Pooling::LastToken) };
    let options = serde_json::json!({
        "tower": tower, "query": { "max_tokens": 16 }, "pairs": [],
        "validation": { "pairs": 6, "every": 4 },
        "method": { "kind": "lora", "rank": 4, "alpha": 8.0 },
        "batch_pairs": 8, "temperature": 0.1, "steps": 12, "seed": 11, "checkpoint_seconds": 3600,
    });
    serde_json::from_value(options).unwrap()
}

/// 60 pairs: a document holds the letters of its query and others.
pub(super) fn tiny_pairs() -> PairSet {
    let mut set = PairSet::default();
    let mut rng = SplitMix64::new(77);
    let mut word =
        |n: usize| -> String { (0..n).map(|_| char::from(b'a' + rng.below(26) as u8)).collect() };
    for _ in 0..60 {
        let query = word(4);
        let document = set.intern(format!("{}{query}{}", word(3), word(5)));
        let negatives = vec![set.intern(word(9))];
        set.push(Pair { query, document, negatives, margins: Vec::new(), weight: 1.0, source: 0 });
    }
    set
}

/// [`tiny_pairs`] as all that a run reads.
pub(super) fn tiny_data() -> TrainData {
    TrainData { pairs: tiny_pairs(), ..TrainData::default() }
}

/// Bytes as token ids; queries begin with 1, documents with 2.
pub(super) fn bytes(side: Side, _source: u32, text: &str) -> Result<Vec<u32>> {
    let first = if side == Side::Query { 1 } else { 2 };
    Ok(std::iter::once(first).chain(text.bytes().map(|b| u32::from(b) % 97)).collect())
}

/// [`tiny_pairs`] as a file of `dir`, each with the text of its query.
pub(super) fn pairs_file(dir: &Path) -> PairSource {
    let lines: String = tiny_pairs()
        .pairs
        .iter()
        .map(|p| format!("{{\"query\":{:?},\"text\":\"xx{}\"}}\n", p.query, p.query))
        .collect();
    std::fs::write(dir.join("pairs.jsonl"), lines).unwrap();
    PairSource::new("pairs.jsonl")
}

/// A `tokenizer.json` in `dir` whose tokens are characters.
pub(super) fn letter_tokenizer(
    dir: &Path,
    letters: impl Iterator<Item = (char, u32)>,
    unknown: char,
) {
    let vocab: serde_json::Map<_, _> =
        letters.map(|(letter, id)| (letter.to_string(), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": unknown},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

const WIDTH: usize = 32;

/// A BERT of 3 layers in `dir`, with random weights and a letter tokenizer.
pub(super) fn tiny_bert(dir: &Path) {
    let config = serde_json::json!({
        "vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 24, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "type_vocab_size": 2,
        "initializer_range": 0.02, "pad_token_id": 0, "model_type": "bert",
    });
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let (offset, scale) =
            if name.ends_with("LayerNorm.weight") { (1.0, 0.2) } else { (0.0, 0.3) };
        let count = shape.iter().product();
        let data: Vec<f32> = (0..count).map(|i| offset + scale * hashed(&name, i)).collect();
        tensors.insert(name, Tensor::from_vec(data, shape, &Device::Cpu).unwrap());
    };
    for (name, rows) in [("word", 40), ("position", 24), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, WIDTH]);
    }
    let mut pair = |name: String, shape: &[usize]| {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &shape[..1]);
    };
    pair("embeddings.LayerNorm".into(), &[WIDTH]);
    for layer in 0..3 {
        let mut part = |name: &str, shape: &[usize]| {
            pair(format!("encoder.layer.{layer}.{name}"), shape);
        };
        for name in ["attention.self.query", "attention.self.key", "attention.self.value"] {
            part(name, &[WIDTH, WIDTH]);
        }
        part("attention.output.dense", &[WIDTH, WIDTH]);
        part("attention.output.LayerNorm", &[WIDTH]);
        part("intermediate.dense", &[48, WIDTH]);
        part("output.dense", &[WIDTH, 48]);
        part("output.LayerNorm", &[WIDTH]);
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    let letters = "[]abcdefghijklmnopqrstuvwxyz ".chars().zip(0..);
    letter_tokenizer(dir, letters, '[');
}

/// A folder with a tiny LLM as Hugging Face has it.
pub(super) fn write_llm(config: &DecoderConfig, dir: &Path) {
    let (tower, cpu) = (TowerOptions::new("tiny", Pooling::Mean), Device::Cpu);
    let all = Trainable::All;
    let (decoder, vars) =
        Decoder::load(config, &RandomWeights, &tower, all, Precision::F32, &cpu).unwrap();
    let text = decoder.hugging_face_config().to_string();
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), text).unwrap();
    let tensors = vars.into_iter().map(|(name, var)| (name, var.into_inner())).collect();
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    let letters = (0..97u32).map(|id| (char::from_u32(id + 97).unwrap(), id));
    letter_tokenizer(dir, letters, 'a');
}
