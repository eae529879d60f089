//! Decoders of every family, causal and bidirectional, beside transformers' vectors of the same tiny models
//! (tests/python/decoder_golden.py), out of folders and out of GGUF files.

use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, Tensor};
use scalingnote::tower::{Decoder, DeviceSpec, TowerOptions, decoder_encoder};
use scalingnote::types::{Arithmetic, Embeddings, Pooling, SplitMix64};
use serde_json::Value;

use super::encoders::{cosine, resolve_as};
use crate::house::hostile::targets::llama;

#[derive(serde::Deserialize)]
struct Golden {
    texts: Vec<Text>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Text {
    text: String,
    most: u32,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    causal: bool,
    config: Value,
    vectors: Vec<Vectors>,
}

#[derive(serde::Deserialize)]
struct Vectors {
    mean: Vec<f32>,
    last: Vec<f32>,
}

impl Vectors {
    fn of(&self, pooling: Pooling) -> &[f32] {
        if pooling == Pooling::Mean { &self.mean } else { &self.last }
    }
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../golden/decoders.json")).unwrap()
}

/// Numbers drawn from a tensor's name, as the script draws them.
fn weight(name: &str, count: usize, gemma: bool) -> Vec<f32> {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    let mut random = SplitMix64::new(name.bytes().fold(0xCBF2_9CE4_8422_2325, hash));
    let mut next = || (random.next_u64() >> 40) as f32 / (1u32 << 24) as f32 - 0.5;
    let scale = match name {
        name if name.ends_with("norm.weight") => 1.,
        name if name.contains("embed") => 2.,
        name if name.ends_with("bias") => 1.,
        _ => 0.5,
    };
    let base = if name.ends_with("norm.weight") && !gemma { 1. } else { 0. };
    (0..count).map(|_| base + scale * next()).collect()
}

/// Every tensor of a model, by Hugging Face's names.
fn tensors(config: &Value) -> Vec<(String, Tensor)> {
    let size = |key: &str| config[key].as_u64().map(|n| n as usize);
    let (hidden, inner) = (size("hidden_size").unwrap(), size("intermediate_size").unwrap());
    let (heads, kv_heads) =
        (size("num_attention_heads").unwrap(), size("num_key_value_heads").unwrap());
    let head_dim = size("head_dim").unwrap_or(hidden / heads);
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let family = config["model_type"].as_str().unwrap();
    let gemma = family == "gemma3_text";
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![size("vocab_size").unwrap(), hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..size("num_hidden_layers").unwrap() {
        let mut put = |part: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{part}"), shape.to_vec()));
        };
        put("input_layernorm.weight", &[hidden]);
        put("post_attention_layernorm.weight", &[hidden]);
        if gemma {
            put("pre_feedforward_layernorm.weight", &[hidden]);
            put("post_feedforward_layernorm.weight", &[hidden]);
        }
        if family == "phi3" {
            put("self_attn.qkv_proj.weight", &[q + 2 * kv, hidden]);
            put("mlp.gate_up_proj.weight", &[2 * inner, hidden]);
        } else {
            for (part, rows) in [("q", q), ("k", kv), ("v", kv)] {
                put(&format!("self_attn.{part}_proj.weight"), &[rows, hidden]);
                if family == "qwen2" {
                    put(&format!("self_attn.{part}_proj.bias"), &[rows]);
                }
            }
            put("mlp.gate_proj.weight", &[inner, hidden]);
            put("mlp.up_proj.weight", &[inner, hidden]);
        }
        put("self_attn.o_proj.weight", &[hidden, q]);
        put("mlp.down_proj.weight", &[hidden, inner]);
        if gemma || family == "qwen3" {
            put("self_attn.q_norm.weight", &[head_dim]);
            put("self_attn.k_norm.weight", &[head_dim]);
        }
    }
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let values = weight(&name, shape.iter().product(), gemma);
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    shapes.into_iter().map(tensor).collect()
}

/// A byte-level tokenizer: the token of a byte is its number plus 2.
fn tokenizer() -> Value {
    llama::byte_level(&["<pad>", "<eos>"])
}

fn write_model(case: &Case, folder: &Path) {
    std::fs::write(folder.join("config.json"), case.config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let tensors = tensors(&case.config).into_iter().collect();
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

fn options(model: &Path, pooling: Pooling, most: u32) -> TowerOptions {
    TowerOptions {
        normalize: Some(false),
        max_tokens: Some(most),
        ..TowerOptions::new(model.to_str().unwrap(), pooling)
    }
}

/// The least and the mean cosine of vectors with those that transformers gives.
fn compare(case: &Case, pooling: Pooling, ours: &Embeddings) -> (f64, f64) {
    assert_eq!(ours.len(), case.vectors.len());
    let theirs = case.vectors.iter().map(|vectors| vectors.of(pooling));
    let found: Vec<f64> = ours.rows().zip(theirs).map(|(a, b)| cosine(a, b)).collect();
    (found.iter().copied().fold(1., f64::min), found.iter().sum::<f64>() / found.len() as f64)
}

/// The token ids of the golden texts, by the tower's own tokenizer, cut as each text asks.
async fn ids(golden: &Golden, model: &Path) -> Vec<Vec<u32>> {
    let mut ids = Vec::new();
    for Text { text, most } in &golden.texts {
        let tower = resolve_as(options(model, Pooling::Mean, *most)).await.unwrap();
        let tokens = tower.tokenizer().tokenize(text).unwrap().ids;
        let bytes = text.bytes().map(|byte| u32::from(byte) + 2);
        assert_eq!(tokens, bytes.take(*most as usize).collect::<Vec<_>>());
        ids.push(tokens);
    }
    ids
}

#[tokio::test]
async fn every_family_gives_transformers_vectors() {
    let golden = golden();
    for case in &golden.cases {
        let folder = tempfile::tempdir().unwrap();
        write_model(case, folder.path());
        let owned = ids(&golden, folder.path()).await;
        let ids: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
        for pooling in [Pooling::Mean, Pooling::LastToken] {
            for (arithmetic, least) in
                [(Arithmetic::F32, 0.999_99), (Arithmetic::Bf16, 0.999), (Arithmetic::Int8, 0.99)]
            {
                let named =
                    format!("{} causal {} {pooling:?} {arithmetic:?}", case.name, case.causal);
                let options = TowerOptions { arithmetic, ..options(folder.path(), pooling, 512) };
                let tower = resolve_as(options).await.unwrap();
                let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 2 }).unwrap();
                let packed = encoder.encode(&ids).unwrap();
                let (worst, mean) = compare(case, pooling, &packed);
                println!("{named}: least {worst:.7}, mean {mean:.7}");
                assert!(worst >= least, "{named}: {worst}");
                for (at, one) in ids.iter().enumerate() {
                    let alone = encoder.encode(&[one]).unwrap();
                    assert_eq!(alone.row(0), packed.row(at), "{named}: text {at} alone");
                }
                if arithmetic == Arithmetic::Int8 {
                    continue;
                }
                // The same on candle's tensors, as other devices run it. Its bf16 products do not run on the processor.
                let arithmetic = match arithmetic {
                    Arithmetic::Bf16 if case.name != "gemma3" => Arithmetic::F16,
                    Arithmetic::Bf16 => continue,
                    other => other,
                };
                let (config, weights) = (tower.config().unwrap(), tower.weights().unwrap());
                let decoder = Decoder::load_on_tensors(config, weights, arithmetic, 512).unwrap();
                let mut encoder = decoder_encoder(decoder, pooling, None, false);
                let packed = encoder.encode(&ids).unwrap();
                let (worst, mean) = compare(case, pooling, &packed);
                println!("{named}, tensors in {arithmetic:?}: least {worst:.7}, mean {mean:.7}");
                assert!(worst >= least, "{named}, tensors: {worst}");
                for (at, one) in ids.iter().enumerate() {
                    let alone = encoder.encode(&[one]).unwrap();
                    assert!(
                        cosine(alone.row(0), packed.row(at)) > 0.999_999,
                        "{named}: {at} alone"
                    );
                }
            }
        }
    }
}

/// What llama.cpp's converter calls a tensor, its values as the converter stores them.
fn stored(name: &str, tensor: &Tensor, config: &Value) -> (String, QTensor) {
    let family = config["model_type"].as_str().unwrap();
    let gemma = family == "gemma3_text";
    let mut tensor = tensor.clone();
    if gemma && name.ends_with("norm.weight") {
        tensor = (tensor + 1.).unwrap();
    }
    if gemma && name.contains("q_norm") {
        // llama.cpp divides scores by the root of the head's width alone; here another number stands in the configuration.
        let share = config["head_dim"].as_f64().unwrap()
            / config["query_pre_attn_scalar"].as_f64().unwrap();
        tensor = (tensor * share.sqrt()).unwrap();
    }
    let heads = match name {
        name if name.contains("q_proj") => config["num_attention_heads"].as_u64(),
        name if name.contains("k_proj") => config["num_key_value_heads"].as_u64(),
        _ => None,
    };
    if let (Some(heads), "llama") = (heads, family) {
        let (shape, heads) = (tensor.shape().clone(), heads as usize);
        let (rows, width) = shape.dims2().unwrap();
        tensor = tensor
            .reshape((heads, 2, rows / heads / 2, width))
            .and_then(|t| t.transpose(1, 2)?.contiguous()?.reshape(shape))
            .unwrap();
    }
    let behind = if gemma { "post_attention_norm" } else { "ffn_norm" };
    (llama::in_gguf(name, behind), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
}

fn write_gguf(
    case: &Case,
    architecture: &str,
    extra: &[(&str, gguf_file::Value)],
    more: &[(&str, &Tensor)],
    path: &Path,
) {
    use gguf_file::Value as Entry;
    let config = &case.config;
    let number = |key: &str| Entry::U32(config[key].as_u64().unwrap() as u32);
    let mut metadata =
        vec![("general.architecture".to_owned(), Entry::String(architecture.to_owned()))];
    let mut put = |key: &str, value: Entry| metadata.push((format!("{architecture}.{key}"), value));
    for (key, from) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        put(key, number(from));
    }
    if !config["head_dim"].is_null() {
        put("attention.key_length", number("head_dim"));
        put("attention.value_length", number("head_dim"));
    }
    put(
        "attention.layer_norm_rms_epsilon",
        Entry::F32(config["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32),
    );
    put("rope.freq_base", Entry::F32(config["rope_theta"].as_f64().unwrap_or(1e4) as f32));
    for (key, value) in extra {
        put(key, value.clone());
    }
    let mut tensors: Vec<(String, QTensor)> =
        tensors(config).iter().map(|(name, tensor)| stored(name, tensor, config)).collect();
    let f32 = |tensor: &Tensor| QTensor::quantize(tensor, GgmlDType::F32).unwrap();
    tensors.extend(more.iter().map(|(name, tensor)| ((*name).to_owned(), f32(tensor))));
    if config["rope_scaling"]["rope_type"] == "llama3" {
        // As the converter computes them: 8-fold below a quarter of a turn in 64 positions, 1 above one turn.
        let divisor = |pair: usize| {
            let turns = 64. * 1e4f64.powf(-2. * pair as f64 / 12.) / std::f64::consts::TAU;
            let smooth = ((turns - 1.) / 3.).clamp(0., 1.);
            (1. / ((1. - smooth) / 8. + smooth)) as f32
        };
        let divisors: Vec<f32> = (0..6).map(divisor).collect();
        let divisors = Tensor::new(divisors, &Device::Cpu).unwrap();
        tensors.push(("rope_freqs.weight".to_owned(), f32(&divisors)));
    }
    std::fs::write(path, llama::gguf_bytes(&metadata, &tensors)).unwrap();
}

#[tokio::test]
async fn gguf_files_give_the_same_vectors() {
    use gguf_file::Value as Entry;
    let golden = golden();
    let window = |tokens: u32| ("attention.sliding_window", Entry::U32(tokens));
    // The golden pattern, layers 0 and 2, which a file lists.
    let listed = [true, false, true].map(Entry::Bool).to_vec();
    let linear = [
        ("rope.scaling.type", Entry::String("linear".to_owned())),
        ("rope.scaling.factor", Entry::F32(8.)),
        ("attention.sliding_window_pattern", Entry::Array(listed)),
        window(24),
    ];
    let around = [("attention.causal", Entry::Bool(false))];
    let mut seen = 0;
    for (name, causal, architecture, extra) in [
        ("llama", true, "llama", &[][..]),
        ("llama", false, "llama-embed", &[]),
        ("llama", false, "llama", &around),
        ("qwen3", true, "qwen3", &[]),
        ("qwen3", false, "qwen3", &around),
        ("gemma3", true, "gemma3", &linear),
        ("gemma3", false, "gemma-embedding", &linear),
    ] {
        let found = golden.cases.iter().find(|case| case.name == name && case.causal == causal);
        let case = found.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
        let path = folder.path().join("model.gguf");
        write_gguf(case, architecture, extra, &[], &path);
        let options = |pooling| TowerOptions {
            tokenizer: Some(folder.path().join("tokenizer.json").to_str().unwrap().to_owned()),
            ..options(&path, pooling, 512)
        };
        let owned: Vec<Vec<u32>> = golden
            .texts
            .iter()
            .map(|text| {
                text.text.bytes().map(|b| u32::from(b) + 2).take(text.most as usize).collect()
            })
            .collect();
        let ids: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
        for pooling in [Pooling::Mean, Pooling::LastToken] {
            let tower = resolve_as(options(pooling)).await.unwrap();
            let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 2 }).unwrap();
            let (worst, mean) = compare(case, pooling, &encoder.encode(&ids).unwrap());
            println!("{architecture}: least {worst:.7}, mean {mean:.7}");
            assert!(worst >= 0.999_99, "{architecture} {pooling:?}: {worst}");
            seen += 1;
        }
    }
    assert_eq!(seen, 14);
}

#[tokio::test]
async fn dense_layers_of_a_gguf_file_are_computed() {
    use gguf_file::Value as Entry;
    let golden = golden();
    let found = golden.cases.iter().find(|case| case.name == "gemma3" && !case.causal);
    let case = found.unwrap();
    let dense = |name: &str, rows: usize, width: usize| {
        Tensor::from_vec(weight(name, rows * width, false), (rows, width), &Device::Cpu).unwrap()
    };
    let (first, second) = (dense("dense_2", 60, 48), dense("dense_3", 48, 60));
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokenizer.json");
    std::fs::write(&tokens, tokenizer().to_string()).unwrap();
    let path = folder.path().join("model.gguf");
    let extra = [
        ("rope.scaling.type", Entry::String("linear".to_owned())),
        ("rope.scaling.factor", Entry::F32(8.)),
        ("attention.sliding_window_pattern", Entry::U32(2)),
        ("attention.sliding_window", Entry::U32(24)),
        ("pooling_type", Entry::U32(1)),
    ];
    let more = [("dense_2.weight", &first), ("dense_3.weight", &second)];
    write_gguf(case, "gemma-embedding", &extra, &more, &path);
    let options = TowerOptions {
        tokenizer: Some(tokens.to_str().unwrap().to_owned()),
        ..TowerOptions::as_the_model_says(path.to_str().unwrap())
    };
    let tower = resolve_as(options).await.unwrap();
    assert_eq!((tower.options().pooling(), tower.dimensions()), (Pooling::Mean, 48));
    let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 1 }).unwrap();
    for (Text { text, .. }, vectors) in golden.texts.iter().zip(&case.vectors).take(4) {
        let ids = tower.tokenizer().tokenize(text).unwrap().ids;
        let ours = encoder.encode(&[&ids]).unwrap();
        let state = Tensor::new(vectors.mean.as_slice(), &Device::Cpu).unwrap().unsqueeze(0);
        let expected = state
            .and_then(|state| {
                state.matmul(&first.t()?)?.matmul(&second.t()?)?.squeeze(0)?.to_vec1::<f32>()
            })
            .unwrap();
        let near = cosine(ours.row(0), &expected);
        assert!(near >= 0.999_99, "{near}");
    }
}
