//! A tiny encoder of every family beside sentence-transformers: `tests/golden/make_encoders.py` made the vectors.

use std::path::Path;

use scalingnote::error::ErrorKind;
use scalingnote::tower::{DeviceSpec, Started, Tower, TowerOptions};
use scalingnote::types::{Arithmetic, Embeddings, Pooling};
use serde_json::{Map, Value};

use crate::house::hostile::targets::llama;

#[derive(serde::Deserialize)]
pub(super) struct Golden {
    pub(super) longest: u32,
    short: u32,
    pub(super) texts: Vec<String>,
    pub(super) tokenizer: Value,
    cases: Vec<Case>,
}

#[derive(Clone, serde::Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) config: Map<String, Value>,
    pub(super) tensors: Vec<(String, Vec<usize>)>,
    pub(super) whole: Vec<Vec<f32>>,
    short: Vec<Vec<f32>>,
}

impl Golden {
    pub(super) fn case(&self, name: &str) -> &Case {
        self.cases.iter().find(|case| case.name == name).unwrap()
    }
}

pub(super) fn golden() -> Golden {
    serde_json::from_str(include_str!("../../golden/encoders.json")).unwrap()
}

/// SplitMix64's function.
fn mixed(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The numbers of a tensor, from its name.
pub(super) fn weights(name: &str, shape: &[usize]) -> Vec<f32> {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let state = name.bytes().fold(0, |s, byte| mixed((s ^ u64::from(byte)).wrapping_add(STEP)));
    let unit = |at: u64| {
        let bits = mixed(state.wrapping_add(STEP.wrapping_mul(at + 1))) >> 40;
        bits as f32 / (1u32 << 24) as f32 - 0.5
    };
    let value = |unit: f32| match shape {
        [_] => f32::from(name.ends_with("weight")) + unit * 0.4,
        _ if name.contains("embeddings") => unit * 2.,
        _ => unit * (5. / (shape[1] as f64).sqrt()) as f32,
    };
    (0..shape.iter().product::<usize>()).map(|at| value(unit(at as u64))).collect()
}

pub(super) fn write(folder: &Path, case: &Case, tokenizer: &Value) {
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    write_model(folder, &case.config, &case.tensors);
}

fn write_model(folder: &Path, config: &Map<String, Value>, tensors: &[(String, Vec<usize>)]) {
    std::fs::write(folder.join("config.json"), serde_json::to_string(config).unwrap()).unwrap();
    let tensor =
        |(name, shape): &(String, Vec<usize>)| (name.clone(), shape.clone(), weights(name, shape));
    let tensors: Vec<_> = tensors.iter().map(tensor).collect();
    let bytes = llama::safetensors(&tensors, None);
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

async fn resolve(
    folder: &Path,
    max_tokens: u32,
    arithmetic: Arithmetic,
) -> scalingnote::error::Result<Tower> {
    let options = TowerOptions {
        normalize: Some(false),
        max_tokens: Some(max_tokens),
        arithmetic,
        ..TowerOptions::new(folder.to_str().unwrap(), Pooling::Mean)
    };
    resolve_as(options).await
}

pub(super) async fn resolve_as(options: TowerOptions) -> scalingnote::error::Result<Tower> {
    let reporter: std::sync::Arc<dyn scalingnote::observe::Reporter> =
        std::sync::Arc::new(scalingnote::observe::Silent);
    Tower::resolve(&options, Path::new("."), &reporter).await
}

pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[tokio::test]
async fn every_family_computes_what_sentence_transformers_does() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    for case in &golden.cases {
        write(folder.path(), case, &golden.tokenizer);
        for (max_tokens, expected) in [(golden.longest, &case.whole), (golden.short, &case.short)] {
            for (arithmetic, least) in
                [(Arithmetic::F32, 0.999_999), (Arithmetic::Bf16, 0.999), (Arithmetic::Int8, 0.99)]
            {
                let tower = resolve(folder.path(), max_tokens, arithmetic).await.unwrap();
                let told = format!("{}, {arithmetic:?}, {max_tokens} tokens", case.name);
                assert_eq!(tower.family(), case.config["model_type"], "{told}");
                let tokens: Vec<_> = golden
                    .texts
                    .iter()
                    .map(|text| tower.tokenizer().tokenize(text).unwrap())
                    .collect();
                let cut = tokens.iter().filter(|tokens| tokens.truncated).count();
                assert_eq!(cut > 0, max_tokens == golden.short, "{told}: {cut} texts are cut");
                let ids: Vec<&[u32]> = tokens.iter().map(|tokens| tokens.ids.as_slice()).collect();
                let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 2 }).unwrap();
                let packed = encoder.encode(&ids).unwrap();
                let found: Vec<f64> = packed
                    .rows()
                    .zip(expected)
                    .map(|(row, expected)| cosine(row, expected))
                    .collect();
                let worst = found.iter().copied().fold(1., f64::min);
                let mean = found.iter().sum::<f64>() / found.len() as f64;
                println!("{told}: worst {worst:.7}, mean {mean:.7}");
                assert!(worst >= least, "{told}: {found:?}");
                for (at, ids) in ids.iter().enumerate() {
                    let alone = encoder.encode(&[ids]).unwrap();
                    assert_eq!(alone.row(0), packed.row(at), "{told}: text {at} alone");
                }
            }
        }
    }
}

/// Ids of texts of several groups of attention, equal neighbours and single ones among them.
fn mixed_lengths() -> Vec<Vec<u32>> {
    let lengths = [1u32, 250, 64, 64, 64, 33, 3, 180, 97, 64, 7, 384, 12, 31];
    lengths.iter().map(|n| (0..*n).map(|at| (at * at + 3 * n) % 256).collect()).collect()
}

/// The least cosine of rows with others.
fn least<'a>(rows: impl Iterator<Item = &'a [f32]>, others: &Embeddings) -> f64 {
    let rows: Vec<&[f32]> = rows.collect();
    assert_eq!(rows.len(), others.len());
    rows.iter().zip(others.rows()).map(|(a, b)| cosine(a, b)).fold(1., f64::min)
}

#[tokio::test]
async fn a_gpus_way_through_every_family_gives_the_same_vectors() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let owned = mixed_lengths();
    let mixed: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
    for case in &golden.cases {
        write(folder.path(), case, &golden.tokenizer);
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let options = |arithmetic| TowerOptions {
                normalize: Some(false),
                max_tokens: Some(golden.longest),
                arithmetic,
                ..TowerOptions::new(folder.path().to_str().unwrap(), pooling)
            };
            let processor = resolve_as(options(Arithmetic::F32)).await.unwrap();
            let mut processor = processor.load(&DeviceSpec::Cpu { threads: 2 }).unwrap();
            let exact = processor.encode(&mixed).unwrap();
            // f16 is slow here; one pooling of it is enough.
            let half = (pooling == Pooling::Mean).then_some((Arithmetic::F16, 0.999));
            for (arithmetic, near) in [(Arithmetic::F32, 0.999_99)].into_iter().chain(half) {
                let told = format!("{} {pooling:?} {arithmetic:?}", case.name);
                let tower = resolve_as(options(arithmetic)).await.unwrap();
                let mut encoder = tower.load_on_tensors().unwrap();
                assert!(encoder.ceiling().unwrap() > 0.);
                let packed = encoder.encode(&mixed).unwrap();
                let found = least(packed.rows(), &exact);
                println!("{told}: least cosine to the processor's kernels {found:.7}");
                assert!(found >= near, "{told}: {found}");
                // What the authors' own code gives.
                if pooling == Pooling::Mean {
                    let ids: Vec<Vec<u32>> = golden
                        .texts
                        .iter()
                        .map(|text| tower.tokenizer().tokenize(text).unwrap().ids)
                        .collect();
                    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
                    let vectors = encoder.encode(&ids).unwrap();
                    let found = vectors.rows().zip(&case.whole).map(|(a, b)| cosine(a, b));
                    let found = found.fold(1., f64::min);
                    println!("{told}: least cosine to sentence-transformers {found:.7}");
                    assert!(found >= near, "{told}: {found} to sentence-transformers");
                }
                if arithmetic != Arithmetic::F32 || pooling != Pooling::Mean {
                    continue;
                }
                // The same text among others, in reverse, and alone.
                let backwards: Vec<&[u32]> = mixed.iter().rev().copied().collect();
                let backwards = encoder.encode(&backwards).unwrap();
                let backwards: Vec<&[f32]> = backwards.rows().collect();
                let close = 0.999_999;
                let found = least(backwards.into_iter().rev(), &packed);
                assert!(found >= close, "{told}, in reverse: {found}");
                for (at, ids) in mixed.iter().enumerate() {
                    let alone = encoder.encode(&[ids]).unwrap();
                    let found = cosine(alone.row(0), packed.row(at));
                    assert!(found >= close, "{told}: {} tokens alone: {found}", ids.len());
                }
                // Two batches in flight, asked for out of order.
                let mut start = |part: &[&[u32]]| match encoder.start(part).unwrap() {
                    Started::Running(batch) => batch,
                    Started::Done(_) => panic!("a device gives its vectors later"),
                };
                let (head, tail) = mixed.split_at(5);
                let (first, second) = (start(head), start(tail));
                let (second, first) = (second.finish().unwrap(), first.finish().unwrap());
                let found = least(first.vectors.rows().chain(second.vectors.rows()), &packed);
                assert!(found >= close, "{told}, two batches in flight: {found}");
            }
        }
    }
}

#[tokio::test]
async fn what_an_encoder_cannot_be_is_refused_by_name() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    for (family, key, value, told) in [
        ("bert", "position_embedding_type", "relative_key".into(), "position_embedding_type"),
        ("bert", "is_decoder", true.into(), "is_decoder"),
        ("bert", "hidden_act", "quick_gelu".into(), "quick_gelu"),
        ("bert", "auto_map", serde_json::json!({"AutoModel": "x.Y"}), "auto_map"),
        ("roberta", "position_embedding_type", "relative_key_query".into(), "relative_key_query"),
        ("mpnet", "relative_attention_num_buckets", 16.into(), "relative_attention_num_buckets"),
        ("modernbert", "mlp_bias", true.into(), "mlp_bias"),
        ("modernbert", "rope_scaling", serde_json::json!({"type": "yarn", "factor": 2.}), "yarn"),
        ("nomic_bert, authors", "num_experts", 8.into(), "num_experts"),
        ("nomic_bert, authors", "rotary_emb_interleaved", true.into(), "rotary_emb_interleaved"),
        ("nomic_bert, authors", "rotary_emb_fraction", 0.5.into(), "rotary_emb_fraction"),
        ("new", "auto_map", serde_json::json!({"AutoModel": "modeling.OtherModel"}), "auto_map"),
        ("new", "rope_scaling", serde_json::json!({"type": "dynamic", "factor": 2.}), "dynamic"),
        ("new", "logn_attention_scale", true.into(), "logn_attention_scale"),
    ] {
        let case = golden.case(family);
        write(folder.path(), case, &golden.tokenizer);
        let mut config = case.config.clone();
        config.insert(key.into(), value);
        std::fs::write(folder.path().join("config.json"), serde_json::to_string(&config).unwrap())
            .unwrap();
        let error = resolve(folder.path(), 64, Arithmetic::F32).await.err().expect(key);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let said = error.to_string();
        assert!(said.contains(told) && said.contains("config.json"), "{said}");
    }
    // NomicBERT's base grows with the length of a batch beyond the trained one.
    write(folder.path(), golden.case("nomic_bert, authors"), &golden.tokenizer);
    let error = resolve(folder.path(), golden.longest + 1, Arithmetic::F32).await.err().unwrap();
    assert!(error.to_string().contains("384 positions"), "{error}");
    // Nothing of an encoder is cut or adapted.
    let options = TowerOptions {
        layers: Some(1),
        ..TowerOptions::new(folder.path().to_str().unwrap(), Pooling::Mean)
    };
    let error = resolve_as(options).await.err().unwrap();
    assert!(error.to_string().contains("an encoder (nomic_bert)"), "{error}");
    // The processor has no products in f16, CUDA none in int8.
    for (arithmetic, device) in
        [(Arithmetic::F16, DeviceSpec::Cpu { threads: 1 }), (Arithmetic::Int8, DeviceSpec::Cuda(0))]
    {
        let tower = resolve(folder.path(), 64, arithmetic).await.unwrap();
        let error = tower.load(&device).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("it supports f32, bf16 and"), "{error}");
    }
}

#[tokio::test]
async fn a_tensor_that_is_not_what_it_should_be_is_named_before_anything_is_loaded() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let case = golden.case("modernbert");
    write(folder.path(), case, &golden.tokenizer);
    let wanted = "layers.1.mlp.Wi.weight";
    let without: Vec<_> = case.tensors.iter().filter(|(name, _)| name != wanted).cloned().collect();
    write_model(folder.path(), &case.config, &without);
    let error = resolve(folder.path(), 64, Arithmetic::F32).await.err().unwrap().to_string();
    assert!(error.contains(wanted) && error.contains("model.safetensors"), "{error}");

    let mut other = case.tensors.clone();
    other.iter_mut().filter(|(name, _)| name == wanted).for_each(|(_, shape)| shape[0] -= 1);
    write_model(folder.path(), &case.config, &other);
    let error = resolve(folder.path(), 64, Arithmetic::F32).await.err().unwrap().to_string();
    assert!(error.contains(wanted) && error.contains("has shape [111, 40]"), "{error}");

    write_model(folder.path(), &case.config, &case.tensors);
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..length]).unwrap();
    let at = header.find(wanted).unwrap();
    let altered = format!("{}{}", &header[..at], header[at..].replacen("\"F32\"", "\"I32\"", 1));
    std::fs::write(&path, [&bytes[..8], altered.as_bytes(), &bytes[length..]].concat()).unwrap();
    let error = resolve(folder.path(), 64, Arithmetic::F32).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = error.to_string();
    assert!(
        error.contains(wanted) && error.contains("I32") && error.contains("model.safetensors"),
        "{error}"
    );
}
