//! Real parts for this module's tests: the SmolLM2 file where it is, small tokenizers and models.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

#[expect(dead_code, reason = "the integration tests use the rest")]
#[path = "../../tests/fuzz/targets/llama.rs"]
pub(crate) mod llama;

use llama::Named;

/// SmolLM2-135M, or `None` with a line that says the test is skipped.
pub(crate) fn smollm2() -> Option<PathBuf> {
    let places = [
        std::env::var_os("SCALINGNOTE_MODELS").map(PathBuf::from),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".cache/models")),
        std::env::home_dir().map(|home| home.join(".cache/scalingnote-models")),
    ];
    let found = places
        .into_iter()
        .flatten()
        .map(|place| place.join("SmolLM2-135M-Instruct.Q4_1.gguf"))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!(
            "skipped: SmolLM2-135M-Instruct.Q4_1.gguf is not in SCALINGNOTE_MODELS or .cache/models"
        );
    }
    found
}

/// A byte-level BPE of every byte (id = byte + 1), `<eos>` (0), a few merges and `<bos>` (300): GPT-2's
/// splitting, or that of a pattern.
pub(crate) fn byte_level(pattern: Option<&str>) -> Value {
    let mut definition = llama::byte_level(&["<eos>"]);
    // Merges that reach over what a wrong split would join, had it the chance.
    let merges = if pattern.is_some() {
        vec!["Ġ Ġ", "o n", "t o", ". Ċ", "Ċ Ċ", "ä ½"]
    } else {
        vec![]
    };
    let vocab = &mut definition["model"]["vocab"];
    for (at, merge) in merges.iter().enumerate() {
        vocab[merge.replace(' ', "")] = (257 + at).into();
    }
    vocab["<bos>"] = 300.into();
    definition["model"]["merges"] = merges.into();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    definition["added_tokens"] = json!([added(0, "<eos>"), added(300, "<bos>")]);
    if let Some(pattern) = pattern {
        definition["normalizer"] = json!({"type": "NFC"});
        let mut bytes = definition["pre_tokenizer"].take();
        bytes["use_regex"] = false.into();
        definition["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            bytes,
        ]});
    }
    definition
}

/// Qwen3's own `tokenizer.json`, or `None` with a line that says the check is skipped.
pub(crate) fn qwen3_tokenizer() -> Option<PathBuf> {
    let path = smollm2()?.with_file_name("qwen3-tokenizer.json");
    if path.is_file() {
        return Some(path);
    }
    eprintln!("skipped: qwen3-tokenizer.json is not beside SmolLM2");
    None
}

/// Configuration of a decoder so small that a test can hold it, with everything uneven.
pub(crate) fn tiny_config() -> Value {
    llama::config(320, 64, 128)
}

/// Names, shapes and seeded values of its tensors.
pub(crate) fn tiny_tensors() -> Vec<Named> {
    let norm = |_: &str, shape: &[usize]| if shape.len() == 1 { 1.0 } else { 0.0 };
    llama::seeded(llama::shapes(320, 64), 42, 0.1, norm)
}

/// Writes f32 tensors as one safetensors file.
pub(crate) fn write_safetensors(
    path: &Path,
    tensors: &[Named],
    metadata: Option<HashMap<String, String>>,
) {
    std::fs::write(path, llama::safetensors(tensors, metadata)).unwrap();
}

/// A model directory: configuration, tokenizer, weights in one file or in two shards with their index.
pub(crate) fn write_tiny_model(folder: &Path, sharded: bool) {
    let write = |name: &str, value: &Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };
    write("config.json", &tiny_config());
    write("tokenizer.json", &byte_level(None));
    let tensors = tiny_tensors();
    if !sharded {
        return write_safetensors(&folder.join("model.safetensors"), &tensors, None);
    }
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (left, right) = tensors.split_at(tensors.len() / 2);
    let mut map = serde_json::Map::new();
    for (name, part) in names.iter().zip([left, right]) {
        write_safetensors(&folder.join(name), part, None);
        map.extend(part.iter().map(|(tensor, ..)| (tensor.clone(), Value::from(*name))));
    }
    write("model.safetensors.index.json", &json!({"metadata": {}, "weight_map": map}));
}

/// Every element of `found` is within `tolerance` of what is expected, relative to 1 or to that, whichever is more.
pub(crate) fn close(found: &candle_core::Tensor, expected: &candle_core::Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims());
    let numbers = |tensor: &candle_core::Tensor| -> Vec<f32> {
        let wide = tensor.to_dtype(candle_core::DType::F32).unwrap();
        wide.flatten_all().unwrap().to_vec1().unwrap()
    };
    for (a, b) in numbers(found).iter().zip(numbers(expected)) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.), "{a} for {b}");
    }
}
