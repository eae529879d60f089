//! Special tokens in a text are text: neither the search for added tokens nor the model itself may make a control token
//! of what somebody wrote.
//!
//! The tokenizers library can be told not to look for special tokens. That is not enough where the model's vocabulary
//! holds them as pieces: a unigram model takes `<s>` whole, at the best of all scores, and merges of a BPE may lead to
//! one. SentencePiece itself never matches control symbols in a text.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tokenizers::ModelWrapper;

use crate::error::{ErrorKind, Result, ResultExt};

/// The model of a `tokenizer.json` with its special tokens out of a text's reach, each under its own id still; `None`
/// where they are so already.
///
/// # Errors
/// Input where the model cannot be read.
pub(super) fn without_special(definition: &Value) -> Result<Option<ModelWrapper>> {
    let added = definition["added_tokens"].as_array().into_iter().flatten();
    let special = added.filter(|token| token["special"] == true);
    let special: BTreeSet<&str> = special
        .filter_map(|token| token["content"].as_str())
        .filter(|text| !text.is_empty())
        .collect();
    let Some(model) = definition["model"].as_object() else { return Ok(None) };
    let changed = match model.get("vocab") {
        Some(Value::Array(pieces)) => unigram(model, pieces, &special),
        Some(Value::Object(vocab)) if model.contains_key("merges") => bpe(model, vocab, &special),
        Some(Value::Object(vocab)) => words(model, vocab, &special),
        _ => None,
    };
    let Some(changed) = changed else { return Ok(None) };
    serde_json::from_value(Value::Object(changed))
        .map(Some)
        .or_error(ErrorKind::Input, || "the tokenizer's model cannot be read")
}

/// A name that no text leads to: what splits texts into words leaves no space in them, and normalisers no NUL.
fn hidden(token: &str) -> String {
    format!(" \0{token}")
}

fn unigram(
    model: &Map<String, Value>,
    pieces: &[Value],
    special: &BTreeSet<&str>,
) -> Option<Map<String, Value>> {
    let is_special = |piece: &Value| piece[0].as_str().is_some_and(|text| special.contains(text));
    pieces.iter().any(is_special).then(|| {
        let mut changed = model.clone();
        if let Some(Value::Array(pieces)) = changed.get_mut("vocab") {
            for piece in pieces.iter_mut().filter(|piece| is_special(piece)) {
                piece[0] = hidden(piece[0].as_str().unwrap_or_default()).into();
            }
        }
        changed
    })
}

/// Whole words, or pieces of them. The unknown token stays: it is what the model puts for what it does not know.
fn words(
    model: &Map<String, Value>,
    vocab: &Map<String, Value>,
    special: &BTreeSet<&str>,
) -> Option<Map<String, Value>> {
    let unknown = model.get("unk_token").and_then(Value::as_str);
    let found: Vec<&str> = special
        .iter()
        .copied()
        .filter(|token| Some(*token) != unknown && vocab.contains_key(*token))
        .collect();
    (!found.is_empty()).then(|| {
        let mut changed = model.clone();
        if let Some(Value::Object(vocab)) = changed.get_mut("vocab") {
            for token in found {
                if let Some(id) = vocab.remove(token) {
                    vocab.insert(hidden(token), id);
                }
            }
        }
        changed
    })
}

/// Merges that make a special token, or continue one, are left out.
fn bpe(
    model: &Map<String, Value>,
    vocab: &Map<String, Value>,
    special: &BTreeSet<&str>,
) -> Option<Map<String, Value>> {
    let merges = model.get("merges").and_then(Value::as_array)?;
    let makes = |merge: &Value| {
        let (left, right) = match merge {
            Value::String(both) => both.split_once(' ').unwrap_or_default(),
            pair => (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
        };
        special.contains(left)
            || special.contains(right)
            || special.contains(&*[left, right].concat())
    };
    let makes: Vec<bool> = merges.iter().map(makes).collect();
    // Words that are in the vocabulary are then taken whole.
    let whole = model.get("ignore_merges") == Some(&Value::Bool(true));
    let renamed = if whole { words(model, vocab, special) } else { None };
    if !makes.contains(&true) && renamed.is_none() {
        return None;
    }
    let mut changed = renamed.unwrap_or_else(|| model.clone());
    if let Some(Value::Array(merges)) = changed.get_mut("merges") {
        let mut makes = makes.iter();
        merges.retain(|_| makes.next() != Some(&true));
    }
    Some(changed)
}

#[cfg(test)]
mod tests;
