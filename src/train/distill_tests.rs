//! Stage 2 on a tiny encoder and a cut decoder.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};

use super::bert::Bert;
use super::options::{OptimizerOptions, ValidationOptions};
use super::tests_support::hashed;
use super::{DistillOptions, StudentOptions, Teacher, distill};
use crate::dataset::SplitMix64;
use crate::error::ErrorKind;
use crate::observe::{Reporter, Silent};
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::types::{Cancel, EmbeddingSpace, Embeddings, Pooling};

const WIDTH: usize = 32;

/// A BERT of 3 layers in `dir`, with random weights and a letter tokenizer.
pub(super) fn tiny_bert(dir: &Path) {
    let config = serde_json::json!({
        "vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 24, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "type_vocab_size": 2,
        "initializer_range": 0.02, "pad_token_id": 0, "model_type": "bert",
    });
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
    let mut vocab = serde_json::Map::new();
    for (id, letter) in "[]abcdefghijklmnopqrstuvwxyz ".chars().enumerate() {
        vocab.insert(letter.to_string(), id.into());
    }
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "["},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn the_encoder_equals_candle_transformers() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path());
    let (bert, _) = Bert::load(dir.path(), None, 16, false, 1, false, &Device::Cpu).unwrap();
    let sequences: [&[u32]; 3] = [&[3, 9, 4], &[7], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]];
    let got = bert.forward(&sequences).unwrap().to_vec2::<f32>().unwrap();
    let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    let config: Config = serde_json::from_str(&text).unwrap();
    let tensors =
        candle_core::safetensors::load(dir.path().join("model.safetensors"), &Device::Cpu).unwrap();
    let reference =
        BertModel::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &config)
            .unwrap();
    let (_, vars) = Bert::load(dir.path(), None, 16, false, 1, false, &Device::Cpu).unwrap();
    let projection = &vars.iter().find(|(name, _)| name == "projection.weight").unwrap().1;
    for (sequence, got) in sequences.iter().zip(&got) {
        let ids = Tensor::new(*sequence, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let states = reference.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
        let mean = states.mean(1).unwrap();
        let expected = mean.matmul(&projection.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
        for (a, b) in got.iter().zip(&expected[0]) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}

fn texts() -> Vec<String> {
    let mut rng = SplitMix64::new(8);
    (0..120)
        .map(|_| (0..3 + rng.below(8)).map(|_| char::from(b'a' + rng.below(6) as u8)).collect())
        .collect()
}

/// A teacher that counts letters: a student can learn it.
fn teacher(texts: &[String]) -> Embeddings {
    let mut all = Embeddings::with_capacity(6, texts.len());
    for text in texts {
        let mut row = [0f32; 6];
        text.bytes().for_each(|b| row[usize::from(b - b'a')] += 1.0);
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        all.push(&row.map(|v| v / norm));
    }
    all
}

async fn space(tower: &TowerOptions, reporter: &Arc<dyn Reporter>) -> EmbeddingSpace {
    let tower = Tower::resolve(tower, Path::new("."), reporter).await.unwrap();
    tower.space(crate::types::Digest256::of(b""))
}

#[tokio::test]
async fn a_student_learns_resumes_and_can_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path());
    let texts = texts();
    let teacher = teacher(&texts);
    let options = DistillOptions {
        teacher: TowerOptions::new("fake:6", Pooling::LastToken),
        pairs: Vec::new(),
        student: StudentOptions::Bert {
            path: ".".into(),
            tokenizer: None,
            layers: Some(2),
            max_tokens: 20,
            arithmetic: crate::types::Arithmetic::F32,
            train_embeddings: true,
            keep_case: false,
            fit_queries: 0,
        },
        mse_weight: 1.0,
        cosine_weight: 1.0,
        score_weight: 1.0,
        score_temperature: 0.05,
        optimizer: OptimizerOptions { learning_rate: 3e-3, ..OptimizerOptions::default() },
        batch: 16,
        steps: Some(80),
        validation: ValidationOptions { pairs: 20, every: 20 },
        seed: 5,
        checkpoint_seconds: 3600,
    };
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let space = space(&options.teacher, &reporter).await;
    let run = async |output: &Path, cancel: &Cancel, vectors: &Embeddings| {
        let teacher = Teacher { vectors, space: &space };
        distill(&texts, &teacher, &options, dir.path(), output, &reporter, cancel).await
    };
    let whole = run(&one, &Cancel::new(), &teacher).await.unwrap();
    let (first, last) = (&whole.validation[0], whole.validation.last().unwrap());
    assert!(last.accuracy > 0.9 && first.accuracy < 0.5, "{first:?} {last:?}");

    // A projection that is fitted first is well on its way before the first step, on queries that it was not fitted to.
    let mut fitted = DistillOptions { steps: Some(1), ..options.clone() };
    if let StudentOptions::Bert { fit_queries, .. } = &mut fitted.student {
        *fit_queries = 100;
    }
    let vectors = Teacher { vectors: &teacher, space: &space };
    let output = dir.path().join("fitted");
    let fit = async |cancel: &Cancel| {
        distill(&texts, &vectors, &fitted, dir.path(), &output, &reporter, cancel).await
    };
    let cancelled = Cancel::new();
    cancelled.cancel();
    assert_eq!(fit(&cancelled).await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(!output.join("checkpoint.safetensors").exists(), "half a fit is none");
    let at_once = fit(&Cancel::new()).await.unwrap().validation[0].accuracy;
    assert!(at_once > 0.7, "{at_once} at step 0, {} without", first.accuracy);

    assert_eq!(run(&two, &cancelled, &teacher).await.unwrap_err().kind(), ErrorKind::Cancelled);
    let resumed = run(&two, &Cancel::new(), &teacher).await.unwrap();
    assert_eq!(whole.validation, resumed.validation);

    // What was exported is a query tower like any other.
    let student = one.join("student").to_str().unwrap().to_owned();
    let student = TowerOptions { max_tokens: 20, ..TowerOptions::new(student, Pooling::Mean) };
    let tower = Tower::resolve(&student, dir.path(), &reporter).await.unwrap();
    assert_eq!(tower.teacher(), Some(&space));
    let ids: Vec<Vec<u32>> =
        texts.iter().map(|text| tower.tokenizer().tokenize(text).unwrap().ids).collect();
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 1 }).unwrap();
    let vectors = encoder.encode(&ids).unwrap();
    let cosine: f32 = vectors
        .rows()
        .zip(teacher.rows())
        .map(|(a, b)| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>())
        .sum::<f32>()
        / texts.len() as f32;
    assert!(cosine > 0.9, "{cosine}");
    let wrong = Embeddings::from_vec(6, vec![0.0; 6]).unwrap();
    assert_eq!(run(&two, &Cancel::new(), &wrong).await.unwrap_err().kind(), ErrorKind::Input);
}
