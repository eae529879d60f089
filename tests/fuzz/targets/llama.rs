//! Tiny models of tests: a tokenizer of bytes, the tensors of a Llama, seeded weights, and their files.

use std::collections::HashMap;
use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Value as Entry};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

/// The printable stand-ins for bytes that byte-level BPE uses.
pub fn byte_names() -> Vec<(u8, char)> {
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (byte, char::from(byte)),
            _ => {
                next += 1;
                (byte, char::from_u32(next - 1).unwrap())
            }
        })
        .collect()
}

/// A byte-level BPE without merges: first these words, then every byte.
pub fn byte_level(words: &[&str]) -> Value {
    let mut vocab = Map::new();
    for (id, word) in words.iter().enumerate() {
        vocab.insert((*word).to_owned(), id.into());
    }
    for (byte, shown) in byte_names() {
        vocab.insert(shown.to_string(), (usize::from(byte) + words.len()).into());
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    })
}

/// The same with the special token `<eos>`, 0.
pub fn byte_level_with_end() -> Value {
    let mut tokenizer = byte_level(&["<eos>"]);
    tokenizer["added_tokens"] = json!([{"id": 0, "content": "<eos>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}]);
    tokenizer
}

/// The configuration of a Llama of two layers.
pub fn config(vocabulary: usize, inner: usize, positions: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "intermediate_size": inner, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": positions, "hidden_act": "silu",
        "eos_token_id": 0,
    })
}

/// Names and shapes of its tensors.
pub fn shapes(vocabulary: usize, inner: usize) -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, 32]),
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
            ("mlp.gate_proj", vec![inner, 32]),
            ("mlp.up_proj", vec![inner, 32]),
            ("mlp.down_proj", vec![32, inner]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    shapes
}

/// A tensor: its name, its shape and its numbers.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Numbers for tensors, each at most `spread` away from what `base` gives for its name and shape.
pub fn seeded(
    shapes: Vec<(String, Vec<usize>)>,
    seed: u64,
    spread: f32,
    base: impl Fn(&str, &[usize]) -> f32,
) -> Vec<Named> {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let (base, count) = (base(&name, &shape), shape.iter().product::<usize>());
        let values = (0..count).map(|_| base + random.random_range(-spread..spread)).collect();
        (name, shape, values)
    };
    shapes.into_iter().map(tensor).collect()
}

pub fn safetensors(tensors: &[Named], metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    serialize(views, metadata).unwrap()
}

/// What llama.cpp's converter calls a tensor; the norm after attention has more than one name.
pub fn in_gguf(name: &str, after_attention: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", after_attention),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The model as llama.cpp's converter would store it, with its tokenizer. `extra` replaces or adds entries.
pub fn gguf(
    tensors: &[Named],
    tokenizer: &Value,
    matrices: GgmlDType,
    extra: &[(&str, Entry)],
) -> Vec<u8> {
    let stored = |(name, shape, values): &Named| {
        let mut tensor = Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu).unwrap();
        let heads = match name {
            name if name.contains("q_proj") => Some(4),
            name if name.contains("k_proj") => Some(2),
            _ => None,
        };
        if let Some(heads) = heads {
            tensor = tensor
                .reshape((heads, 2, shape[0] / heads / 2, shape[1]))
                .and_then(|t| t.transpose(1, 2)?.contiguous()?.reshape(shape.as_slice()))
                .unwrap();
        }
        let dtype = if shape.len() == 1 { GgmlDType::F32 } else { matrices };
        (in_gguf(name, "ffn_norm"), QTensor::quantize(&tensor, dtype).unwrap())
    };
    let tensors: Vec<_> = tensors.iter().map(stored).collect();
    let text = |s: &str| Entry::String(s.to_owned());
    let mut tokens: Vec<Entry> = (0..320).map(|id| text(&format!("<unused{id}>"))).collect();
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = text(token);
    }
    let mut kinds = vec![Entry::I32(1); 320];
    for token in tokenizer["added_tokens"].as_array().unwrap() {
        kinds[token["id"].as_u64().unwrap() as usize] = Entry::I32(3);
    }
    let merges = tokenizer["model"]["merges"].as_array().unwrap();
    let merges = merges.iter().map(|merge| text(merge.as_str().unwrap())).collect();
    let mut metadata = vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", Entry::U32(2)),
        ("llama.context_length", Entry::U32(128)),
        ("llama.embedding_length", Entry::U32(32)),
        ("llama.feed_forward_length", Entry::U32(64)),
        ("llama.attention.head_count", Entry::U32(4)),
        ("llama.attention.head_count_kv", Entry::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Entry::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.eos_token_id", Entry::U32(0)),
        ("tokenizer.ggml.tokens", Entry::Array(tokens)),
        ("tokenizer.ggml.token_type", Entry::Array(kinds)),
        ("tokenizer.ggml.merges", Entry::Array(merges)),
    ];
    for (key, value) in extra {
        metadata.retain(|(old, _)| old != key);
        metadata.push((*key, value.clone()));
    }
    gguf_bytes(&metadata, &tensors)
}

/// A GGUF file of these.
pub fn gguf_bytes<K: AsRef<str>>(
    metadata: &[(K, Entry)],
    tensors: &[(String, QTensor)],
) -> Vec<u8> {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_ref(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = Cursor::new(Vec::new());
    gguf_file::write(&mut out, &metadata, &tensors).unwrap();
    out.into_inner()
}
