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
