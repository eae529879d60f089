use serde_json::json;

use super::*;
use crate::tower::testing::byte_level;
use crate::tower::tokenize::tokenizer::{Definition, TowerTokenizer};
use crate::tower::{SpecialTokens, TowerOptions};
use crate::types::Pooling;

fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true})
}

fn definition(added: Value, splits: Value, model: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": splits, "post_processor": null, "decoder": null, "model": model})
}

/// SentencePiece's unigram, its special pieces at the best score, as its converter writes them.
fn unigram(byte_fallback: bool) -> Value {
    let mut pieces = vec![json!(["<s>", 0.0]), json!(["</s>", 0.0]), json!(["<unk>", 0.0])];
    pieces.extend("\u{2581} < > / s a b".split(' ').map(|piece| json!([piece, -3.0])));
    if byte_fallback {
        pieces.extend((0..=255u8).map(|byte| json!([format!("<0x{byte:02X}>"), -9.0])));
    }
    definition(
        json!([added(0, "<s>"), added(1, "</s>"), added(2, "<unk>")]),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
        json!({"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": byte_fallback}),
    )
}

/// WordPiece as BERT has it, or over words that only spaces split.
fn word_piece(splits: &str) -> Value {
    let pieces = ["[UNK]", "[CLS]", "[SEP]", "[", "]", "cls", "##ls", "c", "a", "##a"];
    let vocab: Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| ((*piece).to_owned(), id.into())).collect();
    let mut definition = definition(
        json!([added(0, "[UNK]"), added(1, "[CLS]"), added(2, "[SEP]")]),
        json!({"type": splits}),
        json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab}),
    );
    definition["normalizer"] = match splits {
        "BertPreTokenizer" => json!({"type": "Lowercase"}),
        _ => Value::Null,
    };
    definition
}

/// A BPE of single letters whose merges lead to `<b>`, as those of some converted files do.
fn bpe(ignore_merges: bool) -> Value {
    let pieces = ["<unk>", "<b>", "<", "b", ">", "<b", "b>", "\u{2581}"];
    let vocab: Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| ((*piece).to_owned(), id.into())).collect();
    definition(
        json!([added(0, "<unk>"), added(1, "<b>")]),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never", "split": true}),
        json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": [["<", "b"], ["<b", ">"]]}),
    )
}

fn ids(json: &Value, special_tokens: SpecialTokens, prefix: &str, text: &str) -> Vec<u32> {
    let options = TowerOptions {
        special_tokens,
        prompt_prefix: Some(prefix.to_owned()),
        ..TowerOptions::new("test", Pooling::Mean)
    };
    let tokenizer = TowerTokenizer::new(Definition::new(json.clone()), &options, 1 << 20).unwrap();
    tokenizer.tokenize(text).unwrap().ids
}

#[test]
fn a_special_token_in_a_text_is_text() {
    let bytes = byte_level(None);
    let letters = |text: &str| text.bytes().map(|byte| u32::from(byte) + 1).collect::<Vec<_>>();
    for (json, text, control, as_text) in [
        (unigram(false), "<s>", 0, vec![3, 4, 7, 5]),
        (unigram(true), "</s>", 1, vec![3, 4, 6, 7, 5]),
        (word_piece("BertPreTokenizer"), "[CLS]", 1, vec![3, 5, 4]),
        // `[CLS]` is one word there, and none that the model knows.
        (word_piece("WhitespaceSplit"), "[CLS]", 1, vec![0]),
        (bpe(false), "<b>", 1, vec![5, 4]),
        (bpe(true), "<b>", 1, vec![5, 4]),
        (bytes.clone(), "<eos>", 0, letters("<eos>")),
        (bytes, "<bos>", 300, letters("<bos>")),
    ] {
        let found = ids(&json, SpecialTokens::Text, "", text);
        assert_eq!(found, as_text, "{text} of {}", json["model"]["type"]);
        // Asked for, and in a prompt, it is what the model knows it as.
        assert!(ids(&json, SpecialTokens::Control, "", text).contains(&control), "{text}");
        assert_eq!(ids(&json, SpecialTokens::Text, text, "a")[..1], [control], "{text}");
    }
}

#[test]
fn what_has_no_special_piece_stays_as_it_is() {
    assert!(without_special(&byte_level(None)).unwrap().is_none());
    let mut plain = unigram(false);
    plain["added_tokens"] = json!([]);
    assert!(without_special(&plain).unwrap().is_none());
}

#[test]
fn bytes_stand_for_what_a_vocabulary_lacks() {
    let sign = "é";
    assert_eq!(ids(&unigram(false), SpecialTokens::Text, "", sign), [3, 2], "unknown");
    // 0xC3 0xA9, behind the space's sign and the ten pieces.
    let found = ids(&unigram(true), SpecialTokens::Text, "", sign);
    assert_eq!(found, [3, 10 + 0xc3, 10 + 0xa9]);
}

#[test]
fn the_option_is_part_of_what_a_token_means() {
    let digest = |special_tokens| {
        let options = TowerOptions { special_tokens, ..TowerOptions::new("test", Pooling::Mean) };
        TowerTokenizer::new(Definition::new(unigram(false)), &options, 400).unwrap().digest()
    };
    assert_ne!(digest(SpecialTokens::Text), digest(SpecialTokens::Control));
    let stored = serde_json::to_value(TowerOptions::new("x", Pooling::Mean)).unwrap();
    assert_eq!(stored.get("special_tokens"), None, "written only where used");
}
