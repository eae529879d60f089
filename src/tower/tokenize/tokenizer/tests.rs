use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::tower::files::gguf::Gguf;
use crate::tower::testing::{byte_level, qwen3_tokenizer, smollm2};
use crate::tower::tokenize::gguf as gguf_tokenizer;
use crate::tower::tokenize::patterns::QWEN2;

fn options(max_tokens: u32) -> TowerOptions {
    TowerOptions { max_tokens: Some(max_tokens), ..TowerOptions::new("test", Pooling::Mean) }
}

fn smollm2_definition() -> Option<Definition> {
    let gguf = Gguf::open(&smollm2()?).unwrap();
    Some(gguf_tokenizer::from_gguf(&gguf).unwrap())
}

fn small(pattern: Option<&str>) -> Definition {
    Definition { eos: Some(0), ..Definition::new(byte_level(pattern)) }
}

fn tokenizer(definition: Definition, options: &TowerOptions) -> TowerTokenizer {
    TowerTokenizer::new(definition, options, 1 << 20).unwrap()
}

fn engine(tokenizer: &TowerTokenizer) -> (&Tokenizer, bool) {
    match &tokenizer.inner.engine {
        Engine::Model { tokenizer, cuttable, .. } => (tokenizer, *cuttable),
        Engine::Fake => unreachable!("a model's tokenizer"),
    }
}

/// Text as notes have it and as they should not: words, runs without spaces, CJK, emoji, odd spaces.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[a-zA-Z]{1,9}",
        2 => " [a-z']{1,7}",
        2 => "[0-9]{1,6}",
        2 => "[\\p{Han}，。、！]{1,8}",
        1 => "[\\p{L}\\p{M}\\p{N}]{1,5}",
        1 => "[😀👩‍👩‍👧🇨🇳é\u{301}\u{200d}\u{3000}]{1,3}",
        2 => "[ \t\r\n\u{a0}]{1,4}",
        2 => "[.,;:!?()'\"<|>#-]{1,3}",
        1 => Just("<|im_end|>".to_owned()),
        1 => "it's|we'll|'S|don't ",
        1 => "\\PC{1,6}",
        1 => Just(" ".to_owned()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Every cut that the rules allow leaves the tokens before it as they are.
fn assert_cuts_are_exact(tokenizer: &TowerTokenizer, text: &str) {
    let (engine, cuttable) = engine(tokenizer);
    assert!(cuttable, "the argument must cover this tokenizer");
    let whole = encode(engine, text).unwrap().get_ids().to_vec();
    let mut from = 0;
    while let Some(at) = cut_after(text, from) {
        let left = encode(engine, &text[..at]).unwrap().get_ids().to_vec();
        assert!(whole.starts_with(&left), "cut at {at} of {text:?}");
        from = at + 1;
    }
}

#[test]
fn cuts_are_exact_with_qwens_pattern() {
    let qwen = tokenizer(small(Some(QWEN2)), &options(512));
    let gpt2 = tokenizer(small(None), &options(512));
    proptest!(ProptestConfig::with_cases(400), |(text in any_text())| {
        assert_cuts_are_exact(&qwen, &text);
        assert_cuts_are_exact(&gpt2, &text);
    });
}

#[test]
fn cuts_are_exact_with_smollm2() {
    let Some(definition) = smollm2_definition() else { return };
    let tokenizer = tokenizer(definition, &options(512));
    proptest!(ProptestConfig::with_cases(400), |(text in any_text())| {
        assert_cuts_are_exact(&tokenizer, &text);
    });
}

#[test]
fn a_cut_text_has_the_tokens_of_the_whole() {
    let Some(definition) = smollm2_definition() else { return };
    let tokenizer = tokenizer(definition, &options(64));
    let texts = [
        "The quick brown fox isn't 12345 years old. ".repeat(2_000),
        "长文本没有空格，但是有标点。".repeat(3_000),
        "没有标点也没有空格".repeat(3_000),
        "a".repeat(40_000),
        "🙂".repeat(9_000),
        format!("{} tail of words", " ".repeat(20_000)),
        format!("{}\nand then text", "0".repeat(9_000)),
    ];
    for text in texts {
        let whole = encode(engine(&tokenizer).0, &text).unwrap().get_ids().to_vec();
        for limit in [1, 63, 64, 65, 500, 1_100, whole.len() - 1, whole.len(), whole.len() + 1] {
            let (ids, truncated) = tokenizer.inner.body(&text, limit).unwrap();
            assert_eq!(truncated, limit < whole.len());
            assert_eq!(ids, whole[..limit.min(whole.len())]);
        }
    }
}

#[test]
fn a_long_text_is_not_tokenised_whole() {
    let Some(definition) = smollm2_definition() else { return };
    let tokenizer = tokenizer(definition, &options(512));
    let text = "Notes that go on and on, without an end in sight. ".repeat(400_000);
    let begun = std::time::Instant::now();
    assert!(tokenizer.tokenize(&text).unwrap().truncated);
    // Tokenising all 20 MB takes many seconds even in release builds.
    assert!(begun.elapsed().as_secs_f64() < 1.0, "{:?}", begun.elapsed());
}

#[test]
fn smollm2_behaves_as_its_authors_tokenizer() {
    let Some(definition) = smollm2_definition() else { return };
    let eos = definition.eos;
    let tokenizer = tokenizer(definition, &options(512));
    let (engine, _) = engine(&tokenizer);
    let tokens = |text: &str| engine.encode(text, false).unwrap().get_tokens().to_vec();
    // Digits stand alone, and the space before them too.
    assert_eq!(tokens("in 2024"), ["in", "Ġ", "2", "0", "2", "4"]);
    assert_eq!(tokens("Hello world"), ["Hello", "Ġworld"]);
    assert_eq!(eos, Some(2));
    let texts = ["Hello, world! 123", " naïve café\n\n\tx = 1", "你好，世界", "👩‍👩‍👧 e\u{301}", "  "];
    for text in texts {
        let ids = encode(engine, text).unwrap().get_ids().to_vec();
        assert_eq!(engine.decode(&ids, false).unwrap(), text);
    }
    // A note cannot end itself; a prompt can say what it means.
    let ids = tokenizer.tokenize("<|im_end|>").unwrap().ids;
    assert!(ids.len() > 1 && !ids.contains(&2), "{ids:?}");
    let prompted = TowerOptions { prompt_suffix: Some("<|im_end|>".into()), ..options(512) };
    let prompted = TowerTokenizer::new(smollm2_definition().unwrap(), &prompted, 49_152).unwrap();
    assert_eq!(prompted.tokenize("x").unwrap().ids.last(), Some(&2));
}

#[test]
fn the_prompt_is_never_cut() {
    let options = TowerOptions {
        prompt_prefix: Some("query:".into()),
        prompt_suffix: Some(" end".into()),
        pooling: Some(Pooling::Eos),
        ..options(16)
    };
    let tokenizer = tokenizer(small(None), &options);
    let bytes = |text: &str| text.bytes().map(u32::from).map(|b| b + 1).collect::<Vec<_>>();
    let mut expected = bytes("query:");
    expected.extend(bytes("abcde"));
    expected.extend(bytes(" end"));
    expected.push(0);
    let found = tokenizer.tokenize("abcdefgh").unwrap();
    assert_eq!(found, Tokenized { ids: expected, truncated: true });
    assert!(!tokenizer.tokenize("abcde").unwrap().truncated);
    assert_eq!(tokenizer.tokenize("").unwrap_err().kind(), ErrorKind::Input);
    let tight = TowerOptions { max_tokens: Some(11), ..options };
    let error = TowerTokenizer::new(small(None), &tight, 512).err().unwrap();
    assert!(error.to_string().contains("takes 11 tokens"), "{error}");
}

#[test]
fn what_the_post_processor_demands_stands_outside_the_prompt() {
    let mut definition = small(None);
    definition.json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<bos>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<eos>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<bos>": {"id": "<bos>", "ids": [300], "tokens": ["<bos>"]},
            "<eos>": {"id": "<eos>", "ids": [0], "tokens": ["<eos>"]},
        },
    });
    let options = TowerOptions {
        prompt_prefix: Some("p".into()),
        prompt_suffix: Some("s".into()),
        pooling: Some(Pooling::Eos),
        ..options(16)
    };
    let ids = tokenizer(definition, &options).tokenize("t").unwrap().ids;
    let id = |c: char| c as u32 + 1;
    assert_eq!(ids, [300, id('p'), id('t'), id('s'), 0], "one end of sequence, not two");
}

#[test]
fn a_foreign_tokenizer_is_found_out() {
    let tokenizer = TowerTokenizer::new(small(None), &options(16), 60).unwrap();
    let error = tokenizer.tokenize("z").unwrap_err();
    assert!(error.to_string().contains("does not belong"), "{error}");
}

#[test]
fn the_digest_ignores_cutting_and_key_order() {
    let plain = tokenizer(small(None), &options(16)).digest();
    let mut definition = small(None);
    let serde_json::Value::Object(fields) = &definition.json else { unreachable!() };
    let mut turned: serde_json::Map<_, _> = fields.clone().into_iter().rev().collect();
    turned.insert(
        "padding".into(),
        serde_json::json!({
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<eos>",
        }),
    );
    definition.json = turned.into();
    assert_eq!(tokenizer(definition, &options(16)).digest(), plain);
    assert_ne!(tokenizer(small(Some(QWEN2)), &options(16)).digest(), plain);
}

fn assert_windows(tokenizer: &TowerTokenizer, text: &str, window: u32, overlap: u32) {
    let chunks = tokenizer.chunks(text, window, overlap).unwrap();
    assert_eq!(chunks[0].start, 0);
    assert_eq!(chunks.last().unwrap().end, text.len());
    for pair in chunks.windows(2) {
        assert!(pair[0].start < pair[1].start && pair[0].end < pair[1].end, "{chunks:?}");
        // What lies between two windows is nothing a token stands for.
        let between = text.get(pair[0].end..pair[1].start).unwrap_or_default();
        assert!(between.chars().all(char::is_whitespace), "{between:?}");
    }
    for (at, chunk) in chunks.iter().enumerate() {
        let part = text.get(chunk.clone()).expect("on character boundaries");
        let (ids, over) = tokenizer.inner.body(part, window as usize).unwrap();
        // Every byte may be a token, and a character is never split: a tiny window may be exceeded.
        let excused = window < 32 || at + 1 == chunks.len();
        assert!(!over || excused, "chunk {at} of {text:?} has more than {} tokens", ids.len());
    }
}

#[test]
fn chunks_cover_the_text() {
    let small = tokenizer(small(None), &options(512));
    let fake = TowerTokenizer::fake(&options(512)).unwrap();
    let smollm2 = smollm2_definition().map(|definition| tokenizer(definition, &options(512)));
    proptest!(ProptestConfig::with_cases(150), |(
        text in any_text(), window in 1u32..60, overlap in 0u32..20,
    )| {
        let overlap = overlap.min(window - 1);
        for tokenizer in [Some(&small), Some(&fake), smollm2.as_ref()].into_iter().flatten() {
            assert_windows(tokenizer, &text, window, overlap);
        }
    });
}

#[test]
fn chunks_overlap_and_end_before_words() {
    let fake = TowerTokenizer::fake(&options(512)).unwrap();
    let text = "a b c d e f g h";
    let parts = |window, overlap| {
        let chunks = fake.chunks(text, window, overlap).unwrap();
        chunks.into_iter().map(|chunk| &text[chunk]).collect::<Vec<_>>()
    };
    assert_eq!(parts(4, 1), ["a b c d", "d e f g", "g h"]);
    assert_eq!(parts(8, 0), [text]);
    assert_eq!(fake.chunks(text, 3, 3).unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(fake.chunks("", 3, 0).unwrap(), vec![Range { start: 0, end: 0 }]);
    let small = tokenizer(small(None), &options(512));
    let text = "first second third";
    let chunks = small.chunks(text, 14, 0).unwrap();
    assert_eq!(
        chunks.iter().map(|c| &text[c.clone()]).collect::<Vec<_>>(),
        ["first second", " third"]
    );
}

#[test]
fn qwen3s_own_file_is_understood() {
    let Some(path) = qwen3_tokenizer() else { return };
    let tokenizer = tokenizer(Definition::read(&path).unwrap(), &options(64));
    let text = "Notes in 中文 and English, 2024!\n\n  - isn't it? ";
    assert_cuts_are_exact(&tokenizer, &text.repeat(3));
    proptest!(ProptestConfig::with_cases(200), |(text in any_text())| {
        assert_cuts_are_exact(&tokenizer, &text);
    });
    let (engine, _) = engine(&tokenizer);
    let ids = encode(engine, text).unwrap().get_ids().to_vec();
    assert_eq!(engine.decode(&ids, false).unwrap(), text);
}

#[test]
fn cuts_are_exact_on_chinese_recipes() {
    let shared = std::env::var_os("SCALINGNOTE_SHARED_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        std::path::PathBuf::from,
    );
    let notes = shared.join("howtocook-zh/corpus.jsonl");
    let Ok(notes) = std::fs::read_to_string(&notes) else {
        eprintln!("skipped: {} is not there", notes.display());
        return;
    };
    let Some(definition) = smollm2_definition() else { return };
    let tokenizer = tokenizer(definition, &options(512));
    let mut cuts = 0;
    for line in notes.lines().take(20) {
        let note: Value = serde_json::from_str(line).unwrap();
        let body = note["text"].as_str().unwrap();
        let body = &body[..body.floor_char_boundary(3_000)];
        assert_cuts_are_exact(&tokenizer, body);
        cuts += usize::from(cut_after(body, 0).is_some());
    }
    assert!(cuts > 15, "{cuts}");
}

#[test]
fn a_prompt_is_one_with_the_text_where_the_model_says_so() {
    let with = |prefix: &str, defaults| {
        let options = TowerOptions { prompt_prefix: Some(prefix.into()), defaults, ..options(40) };
        TowerTokenizer::new(small(Some(QWEN2)), &options, 400).unwrap()
    };
    // A full stop and the line's end behind it are one token.
    let whole = with("", Defaults::None).tokenize("query.\non to").unwrap().ids;
    let (joined, apart) = (with("query.", Defaults::Model), with("query.", Defaults::None));
    assert_eq!(joined.tokenize("\non to").unwrap().ids, whole);
    assert_ne!(apart.tokenize("\non to").unwrap().ids, whole);
    assert!(joined.joins() && !apart.joins());
    assert_eq!(joined.digest(), apart.digest(), "the tokenizer is the same");
    // Special tokens of the prompt stand apart; those in a text are text.
    let special = with("<bos>query:", Defaults::Model).tokenize("<eos>").unwrap().ids;
    assert_eq!(special[0], 300);
    assert!(!special.contains(&0), "{special:?}");
    // A cut takes the text's end, never the prompt, and counts what is really there.
    let long = format!("\n{}", "on to ".repeat(100));
    let cut = joined.tokenize(&long).unwrap();
    assert!(cut.truncated && cut.ids.len() == 40 && cut.ids.starts_with(&whole[..8]));
    assert!(joined.tokenize("").is_err() && joined.tokenize(" \n").is_ok());
    for window in joined.chunks(&long, 20, 5).unwrap() {
        assert!(!joined.tokenize(&long[window]).unwrap().truncated);
    }
}

/// The tokens that a text of a model with `truncation_side` left should have: the last that there is room for.
fn last_of(bos: Option<u32>, whole: &[u32], room: usize) -> Vec<u32> {
    let kept = &whole[whole.len().saturating_sub(room)..];
    bos.into_iter().chain(kept.iter().copied()).collect()
}

#[test]
fn a_text_loses_its_beginning_where_the_model_says_so() {
    let with = |prefix: &str, max_tokens, keeps_end| {
        let options = TowerOptions {
            prompt_prefix: Some(prefix.into()),
            defaults: Defaults::Model,
            ..options(max_tokens)
        };
        let around = Some((vec![300], vec![]));
        let definition = Definition { keeps_end, around, ..small(Some(QWEN2)) };
        TowerTokenizer::new(definition, &options, 400).unwrap()
    };
    for prefix in ["", "query. ", "<bos>query. "] {
        let whole = with(prefix, 1 << 20, false);
        let cut = with(prefix, 40, true);
        assert_ne!(cut.digest(), whole.digest());
        for text in ["on to", "on to the end. ".repeat(30).as_str(), "x".repeat(39).as_str()] {
            let all = whole.tokenize(text).unwrap().ids;
            let found = cut.tokenize(text).unwrap();
            assert_eq!(found.ids, last_of(Some(300), &all[1..], 39), "{prefix:?} {text:?}");
            assert_eq!(found.truncated, all.len() > 40);
        }
        assert_eq!(cut.tokenize("").unwrap_err().kind(), ErrorKind::Input);
    }
    // Long texts are not tokenised whole, and come to the same.
    proptest!(ProptestConfig::with_cases(60), |(text in any_text(), times in 1usize..2_000)| {
        let text = format!("{}.", text.repeat(times));
        let all = with("query: ", 1 << 20, false).tokenize(&text).unwrap().ids;
        let cut = with("query: ", 40, true).tokenize(&text).unwrap().ids;
        prop_assert_eq!(cut, last_of(Some(300), &all[1..], 39));
    });
}

#[test]
fn texts_are_lower_cased_where_the_model_says_so() {
    let tokenizer = |lower_case, normalizer: serde_json::Value| {
        let mut definition = Definition { lower_case, ..small(None) };
        definition.json["normalizer"] = normalizer;
        TowerTokenizer::new(definition, &options(40), 400).unwrap()
    };
    let (plain, lower) = (tokenizer(false, Value::Null), tokenizer(true, Value::Null));
    assert_eq!(lower.tokenize("ÄB c").unwrap(), plain.tokenize("äb c").unwrap());
    assert_ne!(lower.digest(), plain.digest());
    // One that does so itself is what it was.
    let itself = serde_json::json!({"type": "Lowercase"});
    assert_eq!(tokenizer(true, itself.clone()).digest(), tokenizer(false, itself).digest());
}

#[test]
fn flags_take_the_place_of_the_post_processor() {
    let around = Some((vec![300], vec![0]));
    let definition = Definition { around, ..small(None) };
    let tokenizer = TowerTokenizer::new(definition, &options(40), 400).unwrap();
    assert_eq!(tokenizer.tokenize("a").unwrap().ids, [300, u32::from(b'a') + 1, 0]);
}
