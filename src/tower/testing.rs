//! Real parts for this module's tests: the SmolLM2 file where it is, small tokenizers and models.

use std::path::PathBuf;

use serde_json::{Value, json};

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
    let mut vocab = serde_json::Map::new();
    vocab.insert("<eos>".into(), 0.into());
    let mut next = 0x100;
    for byte in 0..=255u8 {
        // GPT-2's printable stand-ins for bytes.
        let shown = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        };
        vocab.insert(shown.to_string(), (u32::from(byte) + 1).into());
    }
    // Merges that reach over what a wrong split would join, had it the chance.
    let merges = if pattern.is_some() {
        vec!["Ġ Ġ", "o n", "t o", ". Ċ", "Ċ Ċ", "ä ½"]
    } else {
        vec![]
    };
    for (at, merge) in merges.iter().enumerate() {
        vocab.insert(merge.replace(' ', ""), (257 + at).into());
    }
    vocab.insert("<bos>".into(), 300.into());
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let pre_tokenizer = match pattern {
        None => byte_level(true),
        Some(pattern) => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]}),
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<eos>"), added(300, "<bos>")],
        "normalizer": if pattern.is_some() { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": byte_level(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges},
    })
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
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 128, "hidden_act": "silu",
        "eos_token_id": 0,
    })
}

/// Names, shapes and seeded values of its tensors.
pub(crate) fn tiny_tensors() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(42);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![320, 32]),
        ("model.norm.weight".to_owned(), vec![32]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![32]),
            ("post_attention_layernorm", vec![32]),
            ("self_attn.q_proj", vec![32, 32]),
            ("self_attn.k_proj", vec![16, 32]),
            ("self_attn.v_proj", vec![16, 32]),
            ("self_attn.o_proj", vec![32, 32]),
            ("mlp.gate_proj", vec![64, 32]),
            ("mlp.up_proj", vec![64, 32]),
            ("mlp.down_proj", vec![32, 64]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut values = |shape: &[usize]| {
        let norm = shape.len() == 1;
        let count = shape.iter().product();
        (0..count)
            .map(|_| if norm { 1.0 } else { 0.0 } + random.random_range(-0.1f32..0.1))
            .collect()
    };
    shapes.into_iter().map(|(name, shape)| (name, shape.clone(), values(&shape))).collect()
}

/// Writes f32 tensors as one safetensors file.
pub(crate) fn write_safetensors(
    path: &std::path::Path,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
    metadata: Option<std::collections::HashMap<String, String>>,
) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            shape.clone(),
            bytes.as_slice(),
        );
        (name.clone(), view.unwrap())
    });
    safetensors::serialize_to_file(views, metadata, path).unwrap();
}

/// A model directory: configuration, tokenizer, weights in one file or in two shards with their index.
pub(crate) fn write_tiny_model(folder: &std::path::Path, sharded: bool) {
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
