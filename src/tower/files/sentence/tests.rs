use super::*;
use crate::error::ErrorKind;
use crate::types::{Activation, HeadModule};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn card(files: &[(&str, &str)]) -> Result<Card> {
    // States of 8 elements, or of as many as the pooling says.
    let width = if files.iter().any(|(_, text)| text.contains(": 384")) { 384 } else { 8 };
    Card::read(folder(files).path(), 512, width)
}

fn modules(kinds: &[(&str, &str)]) -> String {
    let entries: Vec<String> = kinds
        .iter()
        .enumerate()
        .map(|(at, (path, kind))| {
            format!(
                r#"{{"idx": {at}, "name": "{at}", "path": "{path}", "type": "sentence_transformers.models.{kind}"}}"#
            )
        })
        .collect();
    format!("[{}]", entries.join(","))
}

/// A safetensors file without tensors.
const NO_TENSORS: &str = "\u{2}\0\0\0\0\0\0\0{}";

const POOLED: [(&str, &str); 2] = [("", "Transformer"), ("1_Pooling", "Pooling")];

#[test]
fn a_folder_without_such_files_says_nothing() {
    let card = card(&[("config.json", "{}")]).unwrap();
    assert!(card.pooling.is_none() && card.normalize.is_none() && card.modules.is_empty());
    assert!(card.max_tokens.is_none() && card.tokens.is_none() && !card.lower_case);
}

#[test]
fn bge_says_cls_and_unit_length() {
    let modules = modules(&[POOLED[0], POOLED[1], ("2_Normalize", "Normalize")]);
    let card = card(&[
        ("modules.json", &modules),
        (
            "1_Pooling/config.json",
            r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
        ),
        ("sentence_bert_config.json", r#"{"max_seq_length": 512, "do_lower_case": true}"#),
        ("config_sentence_transformers.json", r#"{"__version__": {}}"#),
        ("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#),
    ])
    .unwrap();
    let pooling = card.pooling.unwrap();
    assert_eq!((pooling.value, pooling.by.as_str()), (Pooling::Cls, "1_Pooling/config.json"));
    assert!(card.normalize.unwrap().value && card.modules.is_empty() && card.lower_case);
    let length = card.max_tokens.unwrap();
    assert_eq!((length.value, length.by.as_str()), (512, "sentence_bert_config.json"));
    assert_eq!((card.query_prompt, card.document_prompt), (None, None));
}

#[test]
fn dense_layers_prompts_and_flags_are_read() {
    let modules = modules(&[
        POOLED[0],
        POOLED[1],
        ("2_Dense", "Dense"),
        ("3_Dense", "Dense"),
        ("4_Normalize", "Normalize"),
    ]);
    let card = card(&[
        ("modules.json", &modules),
        ("1_Pooling/config.json", r#"{"pooling_mode": "lasttoken"}"#),
        (
            "2_Dense/config.json",
            r#"{"in_features": 8, "out_features": 32, "bias": false, "activation_function": "torch.nn.modules.linear.Identity"}"#,
        ),
        ("2_Dense/model.safetensors", NO_TENSORS),
        ("3_Dense/config.json", r#"{"in_features": 32, "out_features": 8}"#),
        ("3_Dense/model.safetensors", NO_TENSORS),
        (
            "config_sentence_transformers.json",
            r#"{"prompts": {"query": "Q: ", "passage": "P: ", "other": "x"}, "default_prompt_name": "other"}"#,
        ),
        (
            "tokenizer_config.json",
            r#"{"tokenizer_class": "LlamaTokenizerFast", "add_eos_token": true, "model_max_length": 4096}"#,
        ),
    ])
    .unwrap();
    assert_eq!(card.pooling.unwrap().value, Pooling::LastToken);
    let (identity, tanh) = (Activation::Identity, Activation::Tanh);
    let found: Vec<HeadModule> = card.modules.iter().map(|file| file.module).collect();
    let dense =
        |inputs, outputs, bias, activation| HeadModule::Dense { inputs, outputs, bias, activation };
    assert_eq!(found, [dense(8, 32, false, identity), dense(32, 8, true, tanh)]);
    assert_eq!(card.query_prompt.unwrap().value, "Q: ");
    assert_eq!(card.document_prompt.unwrap().value, "P: ");
    assert_eq!(card.tokens, Some(AddedTokens { bos: true, eos: true }));
    // Positions bound what the tokenizer allows.
    assert_eq!(card.max_tokens.unwrap().value, 512);
}

#[test]
fn the_default_prompt_is_for_both_sides_that_have_none() {
    let config = r#"{"prompts": {"x": "X ", "query": ""}, "default_prompt_name": "x", "similarity_fn_name": "dot"}"#;
    let card = card(&[("config_sentence_transformers.json", config)]).unwrap();
    assert_eq!(card.query_prompt.unwrap().value, "");
    assert_eq!(card.document_prompt.unwrap().value, "X ");
    assert_eq!(card.normalize, None);
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let refused = |files: &[(&str, &str)], kind: ErrorKind, piece: &str| {
        let error = card(files).err().expect(piece);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(piece), "no {piece:?} in {error}");
    };
    let unfit = |kinds: &[(&str, &str)], files: &[(&str, &str)], kind, piece| {
        let modules = modules(kinds);
        let list = [("modules.json", modules.as_str())];
        refused(&[&list[..], files].concat(), kind, piece);
    };
    unfit(&[POOLED[0], ("1_LSTM", "LSTM")], &[], ErrorKind::Unsupported, "LSTM");
    unfit(&[("0_Transformer", "Transformer")], &[], ErrorKind::Unsupported, "0_Transformer");
    unfit(&POOLED, &[], ErrorKind::NotFound, "1_Pooling/config.json");
    for (text, kind, piece) in [
        ("{}", ErrorKind::Corrupt, "no pooling mode"),
        (
            r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#,
            ErrorKind::Unsupported,
            "cls, max",
        ),
        (
            r#"{"pooling_mode": "mean", "include_prompt": false}"#,
            ErrorKind::Unsupported,
            "include_prompt",
        ),
        (
            r#"{"pooling_mode": "mean", "word_embedding_dimension": 16}"#,
            ErrorKind::Input,
            "word_embedding_dimension",
        ),
        (
            r#"{"pooling_mode": "mean", "pooling_mode_cls_token": true}"#,
            ErrorKind::Input,
            "contradicts itself",
        ),
    ] {
        unfit(&POOLED, &[("1_Pooling/config.json", text)], kind, piece);
    }
    for (text, kind, piece) in [
        (r#"{"in_features": 8, "out_features": 0}"#, ErrorKind::Corrupt, "out_features"),
        (r#"{"in_features": 8, "out_features": 8}"#, ErrorKind::Unsupported, "pickle"),
        (
            r#"{"in_features": 8, "out_features": 8, "activation_function": "torch.nn.modules.activation.Mish"}"#,
            ErrorKind::Unsupported,
            "Mish",
        ),
        (
            r#"{"in_features": 9, "out_features": 8}"#,
            ErrorKind::Input,
            "takes 9 elements, but what is before it gives 8",
        ),
    ] {
        let mean = ("1_Pooling/config.json", r#"{"pooling_mode": "mean"}"#);
        let mut files = vec![mean, ("2_Dense/config.json", text)];
        if piece == "pickle" {
            files.push(("2_Dense/pytorch_model.bin", "x"));
        }
        unfit(&[POOLED[0], POOLED[1], ("2_Dense", "Dense")], &files, kind, piece);
    }
    for (name, text, kind, piece) in [
        (
            "modules.json",
            r#"[{"path": "", "type": "custom_st.Transformer"}]"#,
            ErrorKind::Unsupported,
            "custom_st.Transformer",
        ),
        (
            "modules.json",
            r#"[{"idx": 1, "path": "", "type": "sentence_transformers.models.Transformer"}]"#,
            ErrorKind::Input,
            "order of the modules",
        ),
        ("modules.json", "{}", ErrorKind::Corrupt, "not a list of modules"),
        (
            "config_sentence_transformers.json",
            r#"{"default_prompt_name": "q"}"#,
            ErrorKind::Corrupt,
            "not one of the prompts",
        ),
        (
            "config_sentence_transformers.json",
            r#"{"similarity_fn_name": "manhattan"}"#,
            ErrorKind::Unsupported,
            "manhattan",
        ),
        (
            "tokenizer_config.json",
            r#"{"truncation_side": "middle"}"#,
            ErrorKind::Corrupt,
            "truncation_side",
        ),
        (
            "tokenizer_config.json",
            r#"{"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", null]}}"#,
            ErrorKind::Unsupported,
            "tokenization_x.XTokenizer",
        ),
    ] {
        refused(&[(name, text)], kind, piece);
    }
}
