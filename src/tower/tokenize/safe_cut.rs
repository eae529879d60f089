//! Where a long text may be cut before tokenising without changing a token on the left of the cut.
//!
//! The argument. A tokenizer of the kind [`safe_to_cut`] accepts works in steps: added tokens are found,
//! the text is normalised, a regular expression splits it into pieces, each piece is merged on its own.
//! Take a cut between a character L and a character R where L is a letter or digit of [`solid`] and R
//! either a plain space followed by a character of [`solid`], or, after a letter, punctuation of [`stop`].
//! - No accepted added token holds white space or such punctuation after a letter or digit (checked), so
//!   none spans the cut; one on the right cannot reach further left than white space does.
//! - The normal forms never join L with R: R is a starter that composes with nothing before it.
//! - Every accepted pattern splits between L and R wherever it is: none of its alternatives matches a
//!   letter or digit followed by white space, or a letter followed by punctuation. Its only lookahead asks
//!   what follows a run of white space, and the run, if any, lies before L, or after the cut.
//!
//! So the pieces left of the cut are those of the left part alone, and so are their tokens. A property test
//! compares both ways on random text.

use serde_json::Value;

use crate::tower::tokenize::patterns::{GPT2, LLAMA3, QWEN2};

/// Whether the argument above holds for this `tokenizer.json`.
pub(crate) fn safe_to_cut(definition: &Value) -> bool {
    let model = &definition["model"];
    // Whole words or byte-level BPE alone: unigram models weigh whole sentences.
    if model["type"] != "BPE" || !model["dropout"].is_null() {
        return false;
    }
    let affixed = |key: &str| model[key].as_str().is_some_and(|affix| !affix.is_empty());
    if affixed("continuing_subword_prefix") || affixed("end_of_word_suffix") {
        return false;
    }
    let normalized = match definition["normalizer"]["type"].as_str() {
        None => definition["normalizer"].is_null(),
        Some("NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase") => true,
        Some(_) => false,
    };
    normalized
        && splits_words(&definition["pre_tokenizer"])
        && definition["added_tokens"].as_array().is_none_or(|added| {
            added.iter().all(|token| token["content"].as_str().is_some_and(in_one_piece))
        })
}

/// No place inside one could be taken for a cut.
fn in_one_piece(token: &str) -> bool {
    !(0..token.len()).any(|at| token.is_char_boundary(at) && is_boundary(token, at))
        && !token.contains(char::is_whitespace)
}

fn splits_words(pre_tokenizer: &Value) -> bool {
    let steps = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => match pre_tokenizer["pretokenizers"].as_array() {
            Some(steps) => steps.as_slice(),
            None => return false,
        },
        _ => std::slice::from_ref(pre_tokenizer),
    };
    let mut splits = false;
    for step in steps {
        match step["type"].as_str() {
            Some("Digits") => {}
            Some("ByteLevel") => splits |= step["use_regex"] != Value::Bool(false),
            Some("Split") => {
                let known = step["pattern"]["Regex"]
                    .as_str()
                    .is_some_and(|pattern| [GPT2, QWEN2, LLAMA3].contains(&pattern));
                if !known || step["behavior"] != "Isolated" || step["invert"] != Value::Bool(false)
                {
                    return false;
                }
                splits = true;
            }
            _ => return false,
        }
    }
    splits
}

/// The first safe cut at or after byte `from`; `None` if there is none.
pub(crate) fn cut_after(text: &str, from: usize) -> Option<usize> {
    let mut at = from.max(1);
    while !text.is_char_boundary(at) {
        at += 1;
        if at >= text.len() {
            return None;
        }
    }
    text.get(at..)?.char_indices().map(|(offset, _)| at + offset).find(|at| is_boundary(text, *at))
}

fn is_boundary(text: &str, at: usize) -> bool {
    let (left, right) = text.split_at(at);
    let Some(last) = left.chars().next_back() else { return false };
    let mut right = right.chars();
    match right.next() {
        Some(' ') => solid(last) && right.next().is_some_and(solid),
        Some(c) => solid(last) && !last.is_ascii_digit() && stop(c),
        None => false,
    }
}

/// Letters and ASCII digits that every Unicode version and every pattern sees as such.
fn solid(c: char) -> bool {
    matches!(c,
        'a'..='z' | 'A'..='Z' | '0'..='9'
        | 'А'..='я' // Cyrillic
        | 'α'..='ω'
        | '\u{3041}'..='\u{3096}' // hiragana
        | '\u{30a1}'..='\u{30fa}' // katakana
        | '\u{4e00}'..='\u{9fa5}' // CJK
        | '\u{ac00}'..='\u{d7a3}' // Hangul
    )
}

/// Punctuation that is not a part of a contraction and composes with nothing.
fn stop(c: char) -> bool {
    ",.;:!?()，。、；：！？（）".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries() {
        assert_eq!(cut_after("one two", 0), Some(3));
        assert_eq!(cut_after("one  two", 0), None, "two spaces may be one token");
        assert_eq!(cut_after("one\n two", 0), None);
        assert_eq!(cut_after("it's", 0), None);
        assert_eq!(cut_after("12.5", 0), None);
        assert_eq!(cut_after("你好。再见", 4), Some(6));
        assert_eq!(cut_after("abc", 9), None);
        assert_eq!(cut_after("", 0), None);
    }
}
