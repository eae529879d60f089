//! Rebuilds a `tokenizer.json` from GGUF metadata: byte-level BPE and WordPiece.

use std::borrow::Cow;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result, ResultExt};
use crate::tower::files::gguf::{Gguf, Value};
use crate::tower::tokenize::patterns::{LLAMA3, QWEN2};
use crate::tower::tokenize::tokenizer::Definition;

const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What llama.cpp calls a WordPiece tokenizer.
const WORDPIECE: &str = "bert";
/// Stands before what begins a word, in such a file.
const BEGINNING: char = '\u{2581}';
/// Stands before what goes on with one, in a `tokenizer.json`.
const CONTINUING: &str = "##";

/// The tokenizer that a GGUF file carries.
///
/// # Errors
/// Unsupported for a tokenizer of another kind or an unknown pre-tokenizer: the way out is a
/// `tokenizer.json`.
pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Definition> {
    read(gguf).context(|| format!("the tokenizer inside {}", gguf.path.display()))
}

/// Refuses another model's tokenizer: ids would mean other tokens, and no vector would mean anything. A vocabulary may
/// have been extended or patched, so half of it has to agree.
///
/// # Errors
/// Input, with how many differ.
pub(crate) fn check_same(gguf: &Gguf, definition: &Definition) -> Result<()> {
    let (Ok(from), Some(vocabulary)) =
        (Tokens::read(gguf), definition.json["model"]["vocab"].as_object())
    else {
        return Ok(());
    };
    let wordpiece = gguf.string("tokenizer.ggml.model")? == Some(WORDPIECE);
    let at = |id: &Json| {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok())?;
        let (token, kind) = (from.tokens.get(id)?, *from.kinds.get(id)?);
        Some(if wordpiece { piece(token, kind) } else { token.into() })
    };
    let others =
        vocabulary.iter().filter(|(token, id)| at(id).as_deref() != Some(token.as_str())).count();
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

const WAY_OUT: &str = "give the model's tokenizer.json in `tokenizer`";

fn read(gguf: &Gguf) -> Result<Definition> {
    match gguf.string("tokenizer.ggml.model")? {
        Some("gpt2") => byte_level(&Tokens::read(gguf)?),
        Some(WORDPIECE) => wordpiece(&Tokens::read(gguf)?),
        Some(other) => Err(Error::unsupported(format!(
            "tokenizers of type {other:?} cannot be rebuilt from GGUF (\"gpt2\" and \"{WORDPIECE}\" can); {WAY_OUT}"
        ))),
        None => Err(Error::input(format!("there is none; {WAY_OUT}"))),
    }
}

/// The vocabulary of a file.
struct Tokens<'a> {
    gguf: &'a Gguf,
    tokens: &'a [String],
    kinds: Vec<i64>,
}

impl<'a> Tokens<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
        let kinds = match gguf.metadata.get("tokenizer.ggml.token_type") {
            None => vec![1; tokens.len()],
            Some(Value::Integers(kinds)) if kinds.len() == tokens.len() => kinds.clone(),
            Some(_) => return Err(Error::corrupt("token_type does not fit tokens")),
        };
        Ok(Self { gguf, tokens, kinds })
    }

    /// Ids of all tokens by what `text` makes of them, and those that stand outside of the model.
    fn vocabulary(
        &self,
        text: impl Fn(&'a str, i64) -> Cow<'a, str>,
    ) -> Result<(Map<String, Json>, Vec<Json>)> {
        let (mut vocab, mut added) = (Map::new(), Vec::new());
        for (id, (token, kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            let token = text(token, *kind).into_owned();
            if *kind == CONTROL || *kind == USER_DEFINED {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind == CONTROL,
                }));
            }
            if vocab.insert(token, id.into()).is_some() {
                return Err(Error::corrupt(format!("token {id} is there twice")));
            }
        }
        Ok((vocab, added))
    }

    /// The token that a key names.
    fn id_of(&self, key: &str) -> Result<Option<u32>> {
        let Some(id) = self.gguf.integer(key)? else { return Ok(None) };
        let id = u32::try_from(id).ok().filter(|id| (*id as usize) < self.tokens.len());
        id.map(Some).ok_or_else(|| self.gguf.wrong(key, "a token id"))
    }

    /// The token that a file names as the first of `kinds`, else the one called `name`.
    fn named(&self, kinds: &[&str], name: &str) -> Result<u32> {
        for kind in kinds {
            if let Some(id) = self.id_of(&format!("tokenizer.ggml.{kind}_token_id"))? {
                return Ok(id);
            }
        }
        let at = self.tokens.iter().position(|token| token == name);
        let id = at.and_then(|at| u32::try_from(at).ok());
        id.ok_or_else(|| Error::corrupt(format!("neither a key nor a token names {name}")))
    }
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a [String]> {
    match gguf.metadata.get(key) {
        Some(Value::Strings(strings)) => Ok(strings),
        _ => Err(Error::corrupt(format!("metadata lacks the strings {key}"))),
    }
}

/// What a token of a WordPiece vocabulary is called there. llama.cpp's converter marks what begins a word, and nothing
/// else.
fn piece(token: &str, kind: i64) -> Cow<'_, str> {
    // Older files tell them by their brackets alone.
    let special = token.starts_with('[') && token.ends_with(']');
    match token.strip_prefix(BEGINNING) {
        _ if kind == CONTROL || special => token.into(),
        Some(word) if !word.is_empty() => word.into(),
        _ => format!("{CONTINUING}{token}").into(),
    }
}

/// BERT's.
fn wordpiece(from: &Tokens<'_>) -> Result<Definition> {
    let (vocab, added) = from.vocabulary(piece)?;
    // The first is how llama.cpp spells it.
    let end = from.named(&["seperator", "eos"], "[SEP]")?;
    let begin = from.named(&["cls", "bos"], "[CLS]")?;
    let unknown = from.named(&["unknown"], "[UNK]")? as usize;
    let unknown = piece(&from.tokens[unknown], from.kinds[unknown]);
    // No file says it: a vocabulary with capitals was made of texts that kept theirs.
    let ordinary = from.tokens.iter().zip(&from.kinds).map(|(token, kind)| piece(token, *kind));
    let mut ordinary = ordinary.filter(|token| !(token.starts_with('[') && token.ends_with(']')));
    let lowercase = !ordinary.any(|token| token.contains(|c: char| c.is_ascii_uppercase()));
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": CONTINUING, "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": CONTINUING,
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    });
    let (before, after) = (vec![begin], vec![end]);
    Ok(Definition { before, after, eos: Some(end), ..Definition::new(json) })
}

/// GPT-2's and its descendants'.
fn byte_level(from: &Tokens<'_>) -> Result<Definition> {
    let gguf = from.gguf;
    let pre = gguf.string("tokenizer.ggml.pre")?.unwrap_or("(none)");
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            bytes(false),
        ]})
    };
    // (pre-tokenizer, normaliser, whole words looked up before merging, begin-of-text by default)
    let (pre_tokenizer, normalizer, ignore_merges, adds_bos) = match pre {
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            let both = json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]});
            (both, Json::Null, false, false)
        }
        "gpt-2" => (bytes(true), Json::Null, false, false),
        "qwen2" => (split(QWEN2), json!({"type": "NFC"}), false, false),
        "llama-bpe" => (split(LLAMA3), Json::Null, true, true),
        other => {
            return Err(Error::unsupported(format!(
                "the pre-tokenizer {other:?} is not known (smollm, gpt-2, qwen2 and llama-bpe are); \
                 {WAY_OUT}"
            )));
        }
    };
    let (vocab, added) = from.vocabulary(|token, _| token.into())?;
    let merges = strings(gguf, "tokenizer.ggml.merges")?;
    for merge in merges {
        if merge.split(' ').filter(|half| vocab.contains_key(*half)).count() != 2 {
            return Err(Error::corrupt("a merge joins what are no two tokens"));
        }
    }
    let eos = from.id_of("tokenizer.ggml.eos_token_id")?;
    let bos = from.id_of("tokenizer.ggml.bos_token_id")?;
    let added_at = |flag: &str, default: bool, id: Option<u32>| -> Result<Vec<u32>> {
        if !gguf.bool(flag)?.unwrap_or(default) {
            return Ok(Vec::new());
        }
        id.map(|id| vec![id]).ok_or_else(|| Error::corrupt(format!("{flag} without that token")))
    };
    let before = added_at("tokenizer.ggml.add_bos_token", adds_bos, bos)?;
    let after = added_at("tokenizer.ggml.add_eos_token", false, eos)?;
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    Ok(Definition { before, after, eos, ..Definition::new(json) })
}
