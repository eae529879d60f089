//! Rebuilds a `tokenizer.json` from GGUF metadata (byte-level BPE only).

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result, ResultExt};
use crate::tower::files::gguf::{Gguf, Value};
use crate::tower::tokenize::patterns::{LLAMA3, QWEN2};
use crate::tower::tokenize::tokenizer::Definition;

const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The tokenizer that a GGUF file carries.
///
/// # Errors
/// Unsupported for a tokenizer other than byte-level BPE or an unknown pre-tokenizer: the way out is a
/// `tokenizer.json`.
pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Definition> {
    read(gguf).context(|| format!("the tokenizer inside {}", gguf.path.display()))
}

/// Refuses another model's tokenizer: ids would mean other tokens, and no vector would mean anything. A vocabulary may have
/// been extended or patched, so half of it has to agree.
///
/// # Errors
/// Input, with how many differ.
pub(crate) fn check_same(gguf: &Gguf, definition: &Definition) -> Result<()> {
    let (Some(Value::Strings(tokens)), Some(vocabulary)) =
        (gguf.metadata.get("tokenizer.ggml.tokens"), definition.json["model"]["vocab"].as_object())
    else {
        return Ok(());
    };
    let at = |id: &Json| id.as_u64().and_then(|id| tokens.get(usize::try_from(id).ok()?));
    let others = vocabulary.iter().filter(|(token, id)| at(id) != Some(*token)).count();
    if 2 * others <= vocabulary.len() {
        return Ok(());
    }
    Err(Error::input(format!(
        "the tokenizer is another model's: {others} of its {} tokens are not those of {}; name this model's own \
         tokenizer.json in `tokenizer`, or leave it out to use what the GGUF file carries",
        vocabulary.len(),
        gguf.path.display(),
    )))
}

fn read(gguf: &Gguf) -> Result<Definition> {
    let way_out = "give the model's tokenizer.json in `tokenizer`";
    match gguf.string("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        Some(other) => {
            return Err(Error::unsupported(format!(
                "tokenizers of type {other:?} cannot be rebuilt from GGUF (\"gpt2\" can); {way_out}"
            )));
        }
        None => return Err(Error::input(format!("there is none; {way_out}"))),
    }
    let pre = gguf.string("tokenizer.ggml.pre")?.unwrap_or("(none)");
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]})
    };
    // (pre-tokenizer, normaliser, whole words looked up before merging, begin-of-text by default)
    let (pre_tokenizer, normalizer, ignore_merges, adds_bos) = match pre {
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            let both = json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]});
            (both, Json::Null, false, false)
        }
        "gpt-2" => (byte_level(true), Json::Null, false, false),
        "qwen2" => (split(QWEN2), json!({"type": "NFC"}), false, false),
        "llama-bpe" => (split(LLAMA3), Json::Null, true, true),
        other => {
            return Err(Error::unsupported(format!(
                "the pre-tokenizer {other:?} is not known (smollm, gpt-2, qwen2 and llama-bpe are); \
                 {way_out}"
            )));
        }
    };
    let strings = |key: &str| match gguf.metadata.get(key) {
        Some(Value::Strings(strings)) => Ok(strings),
        _ => Err(Error::corrupt(format!("metadata lacks the strings {key}"))),
    };
    let tokens = strings("tokenizer.ggml.tokens")?;
    let merges = strings("tokenizer.ggml.merges")?;
    let types = match gguf.metadata.get("tokenizer.ggml.token_type") {
        None => vec![1; tokens.len()],
        Some(Value::Integers(types)) if types.len() == tokens.len() => types.clone(),
        Some(_) => return Err(Error::corrupt("token_type does not fit tokens")),
    };
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
        if vocab.insert(token.clone(), id.into()).is_some() {
            return Err(Error::corrupt(format!("token {id} is there twice")));
        }
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL,
            }));
        }
    }
    for merge in merges {
        if merge.split(' ').filter(|half| vocab.contains_key(*half)).count() != 2 {
            return Err(Error::corrupt("a merge joins what are no two tokens"));
        }
    }
    let id_of = |key: &str| match gguf.integer(key)? {
        None => Ok(None),
        Some(id) => match u32::try_from(id).ok().filter(|id| (*id as usize) < tokens.len()) {
            Some(id) => Ok(Some(id)),
            None => Err(gguf.wrong(key, "a token id")),
        },
    };
    let eos = id_of("tokenizer.ggml.eos_token_id")?;
    let bos = id_of("tokenizer.ggml.bos_token_id")?;
    let added_at = |flag: &str, default: bool, id: Option<u32>| -> Result<Vec<u32>> {
        if !gguf.bool(flag)?.unwrap_or(default) {
            return Ok(Vec::new());
        }
        id.map(|id| vec![id]).ok_or_else(|| Error::corrupt(format!("{flag} without such a token")))
    };
    let before = added_at("tokenizer.ggml.add_bos_token", adds_bos, bos)?;
    let after = added_at("tokenizer.ggml.add_eos_token", false, eos)?;
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    Ok(Definition { before, after, eos, ..Definition::new(json) })
}
