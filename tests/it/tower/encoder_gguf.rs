//! Encoders out of GGUF files, as llama.cpp's converter names things, beside the vectors that sentence-transformers gives of the
//! same weights (`tests/golden/make_encoders.py`), and their WordPiece tokenizer beside a `tokenizer.json`.

use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, Tensor};
use gguf_file::Value as Entry;
use scalingnote::error::{Error, ErrorKind};
use scalingnote::tower::{DeviceSpec, Tower, TowerOptions};
use scalingnote::types::{Arithmetic, Pooling};
use serde_json::{Value, json};

use crate::house::hostile::targets::llama;
use crate::tower::encoders::{Case, cosine, golden, resolve_as, weights, write};

/// What the converter calls a tensor.
fn stored(name: &str) -> String {
    let pairs = [
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("embeddings.LayerNorm", "token_embd_norm"),
        ("emb_ln", "token_embd_norm"),
        ("encoder.layers", "blk"),
        ("encoder.layer", "blk"),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attn.Wqkv", "attn_qkv"),
        ("attn.out_proj", "attn_output"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("norm1", "attn_output_norm"),
        ("norm2", "layer_output_norm"),
        ("output.LayerNorm", "layer_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("mlp.fc11", "ffn_up"),
        ("mlp.fc12", "ffn_gate"),
        ("mlp.fc2", "ffn_down"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Metadata of a model, and what stands beside or instead of it.
fn write_gguf(path: &Path, case: &Case, matrices: GgmlDType, more: &[(&str, Entry)]) {
    let nomic = case.config["model_type"] == "nomic_bert";
    let architecture = if nomic { "nomic-bert" } else { "bert" };
    let number = |keys: [&str; 2]| {
        let found = keys.iter().find_map(|key| case.config.get(*key)?.as_f64());
        found.unwrap()
    };
    let whole = |keys| Entry::U32(number(keys) as u32);
    let mut metadata = vec![
        ("general.architecture".to_owned(), Entry::String(architecture.to_owned())),
        ("block_count".to_owned(), whole(["num_hidden_layers", "n_layer"])),
        ("context_length".to_owned(), whole(["max_position_embeddings", "max_trained_positions"])),
        ("embedding_length".to_owned(), whole(["hidden_size", "n_embd"])),
        ("feed_forward_length".to_owned(), whole(["intermediate_size", "n_inner"])),
        ("attention.head_count".to_owned(), whole(["num_attention_heads", "n_head"])),
        (
            "attention.layer_norm_epsilon".to_owned(),
            Entry::F32(number(["layer_norm_eps", "layer_norm_epsilon"]) as f32),
        ),
        ("attention.causal".to_owned(), Entry::Bool(false)),
    ];
    if nomic {
        let base = number(["rotary_emb_base", "rope_theta"]) as f32;
        metadata.push(("rope.freq_base".to_owned(), Entry::F32(base)));
    }
    for (key, value) in more {
        metadata.retain(|(known, _)| known != key);
        metadata.push(((*key).to_owned(), value.clone()));
    }
    for (key, _) in &mut metadata {
        if !key.starts_with("general.") && !key.starts_with("tokenizer.") {
            *key = format!("{architecture}.{key}");
        }
    }
    let tensor = |(name, shape): &(String, Vec<usize>)| {
        let tensor = Tensor::from_vec(weights(name, shape), shape.as_slice(), &Device::Cpu);
        let dtype = if shape.len() > 1 { matrices } else { GgmlDType::F32 };
        (stored(name), QTensor::quantize(&tensor.unwrap(), dtype).unwrap())
    };
    let tensors: Vec<_> = case.tensors.iter().map(tensor).collect();
    std::fs::write(path, llama::gguf_bytes(&metadata, &tensors)).unwrap();
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self) -> String {
        self.path("model.gguf").to_str().unwrap().to_owned()
    }

    /// The tower of the file, with a `tokenizer.json` of its own where there is one.
    async fn tower(&self, options: TowerOptions) -> scalingnote::error::Result<Tower> {
        let tokenizer = self.path("tokenizer.json");
        let tokenizer = tokenizer.is_file().then(|| tokenizer.to_str().unwrap().to_owned());
        resolve_as(TowerOptions { tokenizer, ..options }).await
    }
}

#[tokio::test]
async fn vectors_are_those_of_the_same_weights_in_safetensors() {
    let golden = golden();
    for (name, family) in [("bert", "bert"), ("nomic_bert, authors", "nomic_bert")] {
        let case = golden.case(name);
        for (matrices, arithmetic, least) in [
            (GgmlDType::F32, Arithmetic::F32, 0.999_999),
            (GgmlDType::F32, Arithmetic::Bf16, 0.999),
            (GgmlDType::F32, Arithmetic::Int8, 0.99),
            (GgmlDType::F16, Arithmetic::F32, 0.999_99),
        ] {
            let place = Place::new();
            write_gguf(&place.path("model.gguf"), case, matrices, &[]);
            std::fs::write(place.path("tokenizer.json"), golden.tokenizer.to_string()).unwrap();
            let options = TowerOptions {
                normalize: Some(false),
                max_tokens: Some(golden.longest),
                arithmetic,
                ..TowerOptions::new(place.model(), Pooling::Mean)
            };
            let tower = place.tower(options).await.unwrap();
            assert_eq!(tower.family(), family);
            let ids: Vec<Vec<u32>> = golden
                .texts
                .iter()
                .map(|text| tower.tokenizer().tokenize(text).unwrap().ids)
                .collect();
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            let mut encoders = vec![tower.load(&DeviceSpec::Cpu { threads: 2 }).unwrap()];
            if arithmetic == Arithmetic::F32 {
                encoders.push(tower.load_on_tensors().unwrap());
            }
            for mut encoder in encoders {
                let vectors = encoder.encode(&ids).unwrap();
                let found = vectors.rows().zip(&case.whole).map(|(a, b)| cosine(a, b));
                let found = found.fold(1., f64::min);
                println!("{name}, {matrices:?}, {arithmetic:?}: least {found:.7}");
                assert!(found >= least, "{name}, {matrices:?}, {arithmetic:?}: {found}");
            }
        }
    }
}

/// A vocabulary of words and of what goes on with them; its first five are special.
fn vocabulary(capitals: bool) -> Vec<String> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"];
    let words =
        ["hello", "##world", "##ing", "cafe", ".", ",", "!", "[", "]", "今", "天", "##\u{2581}"];
    let letters = 'a'..='z';
    let capitals = if capitals { 'A'..='Z' } else { '0'..='9' };
    let all = special.into_iter().chain(words).map(str::to_owned);
    let letters = letters.chain(capitals).flat_map(|one| [one.to_string(), format!("##{one}")]);
    all.chain(letters).collect()
}

/// `tokenizer.json` as BERT's are.
fn tokenizer(vocabulary: &[String], lowercase: bool) -> Value {
    let ids: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let added: Vec<Value> = vocabulary[..5]
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let piece = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let special = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids},
    })
}

/// Tokens as the converter writes them, with kinds and without (as older files are).
fn tokens(vocabulary: &[String], kinds: bool) -> Vec<(&'static str, Entry)> {
    let phantom = |(id, token): (usize, &String)| {
        let special = if kinds { id < 5 } else { token.starts_with('[') && token.ends_with(']') };
        Entry::String(match token.strip_prefix("##") {
            _ if special => token.clone(),
            Some(rest) => rest.to_owned(),
            None => format!("\u{2581}{token}"),
        })
    };
    let stored = vocabulary.iter().enumerate().map(phantom).collect();
    let mut entries = vec![
        ("tokenizer.ggml.model", Entry::String("bert".to_owned())),
        ("tokenizer.ggml.tokens", Entry::Array(stored)),
    ];
    if kinds {
        let kind = |at: usize| Entry::I32(if at < 5 { 3 } else { 1 });
        entries.extend([
            ("tokenizer.ggml.token_type", Entry::Array((0..vocabulary.len()).map(kind).collect())),
            ("tokenizer.ggml.unknown_token_id", Entry::U32(1)),
            ("tokenizer.ggml.seperator_token_id", Entry::U32(3)),
            ("tokenizer.ggml.cls_token_id", Entry::U32(2)),
        ]);
    }
    entries
}

const TEXTS: [&str; 8] = [
    "hello",
    "Hello helloing, Helloworld!",
    "  a café \u{301}n\u{303} today\n",
    "今天 ok",
    "[CLS] [MASK] written in a text [unused0]",
    "x\u{2581} \u{2581}",
    "naïve İstanbul Ünder",
    "hello\u{0}\u{fffd} \u{200b}.",
];

#[tokio::test]
async fn a_wordpiece_tokenizer_is_rebuilt() {
    let golden = golden();
    let case = golden.case("bert");
    let of = |model: &str| TowerOptions {
        max_tokens: Some(golden.longest),
        ..TowerOptions::new(model, Pooling::Cls)
    };
    for (capitals, kinds) in [(false, true), (true, true), (false, false)] {
        let place = Place::new();
        let vocabulary = vocabulary(capitals);
        let mut more = tokens(&vocabulary, kinds);
        more.push(("pooling_type", Entry::U32(2)));
        write_gguf(&place.path("model.gguf"), case, GgmlDType::F32, &more);
        let options = TowerOptions::as_the_model_says(place.model());
        let rebuilt = place.tower(options).await.unwrap();
        assert_eq!(rebuilt.options().pooling(), Pooling::Cls);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), case, &tokenizer(&vocabulary, !capitals));
        let expected = resolve_as(of(folder.path().to_str().unwrap())).await.unwrap();
        for text in TEXTS {
            let [found, expected] =
                [&rebuilt, &expected].map(|tower| tower.tokenizer().tokenize(text).unwrap().ids);
            assert_eq!(found, expected, "{text:?}, capitals {capitals}, kinds {kinds}");
            assert!(found.starts_with(&[2]) && found.ends_with(&[3]), "{found:?}");
        }
        // The model's own tokenizer.json is taken for what it is, another's is not.
        let own = tokenizer(&vocabulary, !capitals);
        std::fs::write(place.path("tokenizer.json"), own.to_string()).unwrap();
        place.tower(of(&place.model())).await.unwrap();
        let turned: Vec<String> = vocabulary.iter().rev().cloned().collect();
        let mut other = tokenizer(&turned, true);
        other["added_tokens"] = json!([]);
        other["post_processor"] = Value::Null;
        std::fs::write(place.path("tokenizer.json"), other.to_string()).unwrap();
        let error = place.tower(of(&place.model())).await;
        assert!(error.err().unwrap().to_string().contains("another model's"));
    }
}

#[tokio::test]
async fn what_cannot_be_computed_is_refused_by_name() {
    let golden = golden();
    let refused = async |name: &str, more: &[(&str, Entry)], lacking: Option<&str>| -> Error {
        let mut case = golden.case(name).clone();
        case.tensors.retain(|(tensor, _)| Some(stored(tensor).as_str()) != lacking);
        let place = Place::new();
        write_gguf(&place.path("model.gguf"), &case, GgmlDType::F32, more);
        std::fs::write(place.path("tokenizer.json"), golden.tokenizer.to_string()).unwrap();
        place.tower(TowerOptions::new(place.model(), Pooling::Mean)).await.err().unwrap()
    };
    let text = |value: &str| Entry::String(value.to_owned());
    for (name, more, told) in [
        ("bert", ("attention.causal", Entry::Bool(true)), "causal"),
        ("nomic_bert, authors", ("rope.scaling.type", text("yarn")), "yarn"),
        ("nomic_bert, authors", ("expert_count", Entry::U32(8)), "experts"),
        ("bert", ("general.architecture", text("jina-bert-v2")), "llama, "),
    ] {
        let error = refused(name, &[more], None).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let said = error.to_string();
        assert!(said.contains(told) && said.contains("model.gguf"), "{said}");
    }
    for (name, lacking) in
        [("bert", "blk.1.ffn_down.weight"), ("nomic_bert, authors", "blk.2.ffn_gate.weight")]
    {
        let error = refused(name, &[], Some(lacking)).await.to_string();
        assert!(error.contains(lacking) && error.contains("model.gguf"), "{error}");
    }
    for key in ["attention.head_count", "block_count"] {
        let error = refused("bert", &[(key, Entry::U32(u32::MAX))], None).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
