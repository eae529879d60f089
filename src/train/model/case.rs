//! Case for an encoder that folds it: marks before capitals, as rules of its `tokenizer.json`.
//!
//! Most small encoders read lower case alone, an LLM does not: it places `CAN bus` and `can bus` apart, and a student
//! that sees no difference cannot follow it. The marks are characters that the encoder's vocabulary has and nobody
//! types, so no table grows and every reader of `tokenizer.json` writes them alike.

use std::fmt::Write;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Stands before a capital alone, which follows no other and is followed by none: `Debian` is read as `† debian`.
const ONE: char = '†';
/// Stands before the first of several: `iSCSI` is read as `i ‡ scsi`, `XMLHttp` as `‡ xmlhttp`.
const SEVERAL: char = '‡';
const KEY: &str = "\"normalizer\":";

/// The definition with marks before the capitals A to Z; one that has them already is given back as it is. Everything
/// but the normaliser keeps its bytes, so the result does not depend on the JSON writer.
///
/// # Errors
/// Input for a text that is not a tokenizer's definition; Unsupported where capitals are not folded or the vocabulary
/// lacks the marks.
pub(super) fn keep_case(definition: &str) -> Result<String> {
    let whole: Value = serde_json::from_str(definition).or_error(ErrorKind::Input, || "")?;
    let rules = rules();
    let (start, end) = normalizer(definition, &whole)?;
    let folds = &definition[start..end];
    let head = format!("{{\"type\":\"Sequence\",\"normalizers\":[{rules}");
    if folds.starts_with(&head) {
        return Ok(definition.to_owned());
    }
    let vocabulary = &whole["model"]["vocab"];
    let marks = [ONE, SEVERAL].iter().all(|mark| vocabulary.get(mark.to_string()).is_some());
    if whole["normalizer"]["lowercase"] != true || !marks {
        return Err(Error::unsupported(format!(
            "keep_case is for a tokenizer that folds capitals (a BertNormalizer with lowercase) and has the tokens {ONE} \
                 and {SEVERAL}; leave it out"
        )));
    }
    Ok(format!("{}{head}{folds}]}}{}", &definition[..start], &definition[end..]))
}

/// Where the normaliser's value is in the text.
fn normalizer(definition: &str, whole: &Value) -> Result<(usize, usize)> {
    // A vocabulary may have a token of that name.
    for (at, _) in definition.match_indices(KEY) {
        let rest = definition[at + KEY.len()..].trim_start();
        let start = definition.len() - rest.len();
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        if values.next().is_some_and(|value| value.is_ok_and(|value| value == whole["normalizer"]))
        {
            return Ok((start, start + values.byte_offset()));
        }
    }
    Err(Error::input(format!("the definition has no field {KEY}")))
}

/// One rule a capital and mark, each followed by a comma: a rule writes a fixed text, and one that matches no character
/// at all would be shorter but makes the tokenizers library fail.
fn rules() -> String {
    let mut rules = String::new();
    for (before, after, mark) in
        [("(?<![A-Z])", "(?=[A-Z])", SEVERAL), ("(?<![A-Z‡])", "(?![A-Z])", ONE)]
    {
        for letter in 'A'..='Z' {
            // Writing into a String cannot fail.
            let _ = write!(
                rules,
                "{{\"type\":\"Replace\",\"pattern\":{{\"Regex\":\"{before}{letter}{after}\"}},\"content\":\"{mark}{letter}\"}},"
            );
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;

    fn definition(lowercase: bool, mark: &str) -> String {
        let words = [
            "[UNK]",
            "†",
            mark,
            "i",
            "a",
            "can",
            "bus",
            "scsi",
            "disk",
            "##s",
            "é",
            "canbus",
            "normalizer",
        ];
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
        let value = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": false, "lowercase": lowercase},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary},
        });
        serde_json::to_string_pretty(&value).unwrap()
    }

    #[test]
    fn capitals_are_marked_and_nothing_else_changes() {
        let plain = definition(true, "‡");
        let marked = keep_case(&plain).unwrap();
        let [before, after] = [&plain, &marked].map(|text| {
            let tokenizer = Tokenizer::from_bytes(text.as_bytes()).unwrap();
            move |text: &str| tokenizer.encode(text, false).unwrap().get_tokens().join(" ")
        });
        for (text, tokens) in [
            ("can bus", "can bus"),
            ("CAN Bus", "‡ can † bus"),
            ("iSCSI disks", "i ‡ scsi disk ##s"),
            ("A iScsi", "† a i † scsi"),
            ("CANs", "‡ can ##s"),
            ("CANBus", "‡ canbus"),
            ("É é", "é é"),
            ("", ""),
        ] {
            assert_eq!(after(text), tokens, "{text}");
            assert_eq!(after(&text.to_lowercase()), before(text), "{text}");
        }
        assert_eq!(keep_case(&marked).unwrap(), marked);
    }

    #[test]
    fn a_tokenizer_without_the_marks_or_that_keeps_case_is_refused() {
        for wrong in [definition(false, "‡"), definition(true, "x")] {
            let error = keep_case(&wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("keep_case"), "{error}");
        }
        assert_eq!(keep_case("{}").unwrap_err().kind(), ErrorKind::Input);
        assert_eq!(keep_case("no JSON").unwrap_err().kind(), ErrorKind::Input);
    }
}
