use std::collections::HashMap;

use super::*;
use crate::tower::files::safetensors::SafetensorsWeights;
use crate::tower::testing::{tiny_tensors, write_safetensors};

const V: &str = "model.layers.1.self_attn.v_proj";

/// Rank 2 on one v_proj of the tiny model ([16, 32]): A is [2, 32], B is [16, 2].
fn pair(module: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let a = (0..64).map(|n| n as f32 / 64.0).collect();
    let b = (0..32).map(|n| 1.0 - n as f32 / 16.0).collect();
    vec![
        (format!("base_model.model.{module}.lora_A.weight"), vec![2, 32], a),
        (format!("base_model.model.{module}.lora_B.weight"), vec![16, 2], b),
    ]
}

fn base(folder: &Path) -> Box<dyn WeightSource> {
    let path = folder.join("base.safetensors");
    write_safetensors(&path, &tiny_tensors(), None);
    Box::new(SafetensorsWeights::open(&[path]).unwrap())
}

fn write(folder: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)], config: &Value) {
    write_safetensors(&folder.join("adapter_model.safetensors"), tensors, None);
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn config() -> Value {
    serde_json::json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "use_rslora": false,
        "use_dora": false, "fan_in_fan_out": false, "target_modules": ["v_proj"], "alpha_pattern": {},
    })
}

/// What merging did to the v_proj, next to W + scale B A computed by hand.
fn assert_merged(folder: &Path, path: &Path, scale: f32) {
    let base = base(folder);
    let name = format!("{V}.weight");
    let before: Vec<Vec<f32>> = base.tensor(&name, &[16, 32]).unwrap().to_vec2().unwrap();
    let merged = Adapter::open(path).unwrap().over(base).unwrap();
    let after: Vec<Vec<f32>> = merged.tensor(&name, &[16, 32]).unwrap().to_vec2().unwrap();
    let parts = pair(V);
    let (a, b) = (&parts[0].2, &parts[1].2);
    for row in 0..16 {
        for column in 0..32 {
            let change = b[row * 2] * a[column] + b[row * 2 + 1] * a[32 + column];
            let expected = before[row][column] + scale * change;
            assert!((after[row][column] - expected).abs() < 1e-5, "{row} {column}");
        }
    }
    let other = "model.layers.0.self_attn.v_proj.weight";
    let untouched = tiny_tensors().into_iter().find(|(name, ..)| name == other).unwrap().2;
    let found: Vec<f32> =
        merged.tensor(other, &[16, 32]).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found, untouched);
}

#[test]
fn a_peft_directory_is_merged() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &pair(V), &config());
    assert_merged(folder.path(), folder.path(), 3.0);
    let plain = Adapter::open(folder.path()).unwrap().digest();
    let mut rank_stabilised = config();
    rank_stabilised["use_rslora"] = true.into();
    write(folder.path(), &pair(V), &rank_stabilised);
    assert_merged(folder.path(), folder.path(), 6.0 / 2f32.sqrt());
    assert_ne!(Adapter::open(folder.path()).unwrap().digest(), plain);
    let mut pattern = config();
    pattern["alpha_pattern"] = serde_json::json!({"self_attn.v_proj": 8});
    write(folder.path(), &pair(V), &pattern);
    assert_merged(folder.path(), folder.path(), 4.0);
    // Saved from the bare model, with PEFT's adapter name in it.
    let bare: Vec<_> = pair("layers.1.self_attn.v_proj")
        .into_iter()
        .map(|(name, s, v)| (name.replace(".weight", ".default.weight"), s, v))
        .collect();
    write(folder.path(), &bare, &config());
    assert_merged(folder.path(), folder.path(), 3.0);
}

#[test]
fn a_file_with_metadata_is_merged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stage1.safetensors");
    assert!(write_and_open(&path, HashMap::new()).unwrap_err().to_string().contains("lora_alpha"));
    write_and_open(&path, HashMap::from([("lora_alpha".into(), "6".into())])).unwrap();
    assert_merged(folder.path(), &path, 3.0);
    let whole = HashMap::from([("adapter_config".into(), config().to_string())]);
    write_and_open(&path, whole).unwrap();
    assert_merged(folder.path(), &path, 3.0);
}

#[test]
fn metadata_is_judged_as_a_configuration_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stage1.safetensors");
    let open = |key: &str, value: &str| {
        let alpha = ("lora_alpha".to_owned(), "6".to_owned());
        write_and_open(&path, HashMap::from([alpha, (key.to_owned(), value.to_owned())]))
    };
    // What the writer of the file says about other things is its own affair.
    open("format", "pt").unwrap();
    open("init_lora_weights", "eva").unwrap();
    for (key, value) in [("use_dora", "true"), ("init_lora_weights", "pissa"), ("r", "4")] {
        let said = open(key, value).unwrap_err().to_string();
        assert!(said.contains(key), "{said}");
    }
}

fn write_and_open(path: &Path, metadata: HashMap<String, String>) -> Result<Digest256> {
    write_safetensors(path, &pair(V), Some(metadata));
    Adapter::open(path).map(|adapter| adapter.digest())
}

#[test]
fn an_adapter_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = Adapter::open(&folder.path().join("none")).err().unwrap().to_string();
    assert!(
        said.contains("LoRA adapter") && said.contains("none") && !said.contains("; "),
        "{said}"
    );
    // What `train --export` wrote has the adapter in a folder of its own.
    std::fs::create_dir(folder.path().join("adapter")).unwrap();
    write(&folder.path().join("adapter"), &pair("model.layers.0.mlp.up_proj"), &config());
    let said = Adapter::open(folder.path()).err().unwrap().to_string();
    assert!(said.contains("; name the folder `adapter` in it"), "{said}");
}

#[test]
fn what_cannot_be_merged_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |tensors: &[_], config: &Value| {
        write(folder.path(), tensors, config);
        Adapter::open(folder.path()).err().expect("refused").to_string()
    };
    let mut extra = pair(V);
    extra.push(("base_model.model.score.weight".into(), vec![1], vec![0.0]));
    assert!(refused(&extra, &config()).contains("base_model.model.score.weight"));
    // What DoRA, embeddings, LoRA biases, whole modules and other adapters of the same model leave in a file.
    for name in [
        format!("base_model.model.{V}.lora_magnitude_vector"),
        format!("base_model.model.{V}.lora_B.bias"),
        format!("base_model.model.{V}.lora_A.other.weight"),
        "base_model.model.model.embed_tokens.lora_embedding_A".to_owned(),
        "base_model.model.model.embed_tokens.weight".to_owned(),
        "base_model.model.score.modules_to_save.weight".to_owned(),
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta".to_owned(),
    ] {
        let mut extra = pair(V);
        extra.push((name.clone(), vec![1], vec![0.0]));
        let said = refused(&extra, &config());
        assert!(said.contains(&name) && said.contains("merge_and_unload"), "{said}");
    }
    let mut twice = pair(V);
    let again = twice[0].0.replace(".weight", ".default.weight");
    twice.push((again.clone(), vec![2, 32], vec![0.0; 64]));
    assert!(refused(&twice, &config()).contains(&again));
    assert!(refused(&pair(V)[..1], &config()).contains("lora_A without lora_B"));
    let mut crooked = pair(V);
    crooked[1].1 = vec![2, 16];
    crooked[0].1 = vec![32, 2];
    assert!(refused(&crooked, &config()).contains("do not fit"));
    let mut dora = config();
    dora["use_dora"] = true.into();
    assert!(refused(&pair(V), &dora).contains("use_dora"));
    write(folder.path(), &pair("model.layers.7.self_attn.v_proj"), &config());
    let error = Adapter::open(folder.path()).unwrap().over(base(folder.path())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("model.layers.7.self_attn.v_proj"), "{error}");
}

#[test]
fn a_pointer_in_the_place_of_an_adapter_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    std::fs::write(folder.path().join("adapter_model.safetensors"), text).unwrap();
    let error = Adapter::open(folder.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("Git LFS pointer"), "{error}");
}
