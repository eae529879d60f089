use serde_json::json;

use super::*;
use crate::kernel::Window;
use crate::types::hash_json;

fn config(value: &Value) -> EncoderConfig {
    read(value.as_object().unwrap(), |_| None).unwrap().unwrap()
}

/// all-MiniLM-L6-v2's.
fn minilm() -> Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": 384,
        "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
        "num_attention_heads": 12, "num_hidden_layers": 6, "pad_token_id": 0, "type_vocab_size": 2,
        "position_embedding_type": "absolute", "use_cache": true, "vocab_size": 30522,
    })
}

#[test]
fn what_a_bert_is_keeps_its_name() {
    // As release 0.1.0 wrote it: spaces of existing snapshots depend on it.
    let config = config(&minilm());
    assert_eq!(
        config.canonical().to_string(),
        r#"{"vocab_size":30522,"hidden_size":384,"layers":6,"heads":12,"intermediate_size":1536,"epsilon":1e-12,"activation":"Gelu","types":2,"positions":512,"projection":null}"#
    );
    assert_eq!(config.kind(), "scalingnote bert 1");
    assert_eq!(hash_json(&config.canonical()).unwrap().short(), "2dbb65c3a57190c3");
    assert_eq!(config.parameters(), 22_533_888);
}

#[test]
fn a_decoder_is_none_of_them() {
    let fields = json!({"model_type": "llama"});
    assert_eq!(read(fields.as_object().unwrap(), |_| None).unwrap(), None);
}

#[test]
fn a_projection_has_the_width_of_a_state() {
    let shape: [usize; 2] = [256, 384];
    let fields = minilm();
    let read = |shape: &'static [usize]| read(fields.as_object().unwrap(), move |_| Some(shape));
    assert_eq!(read(&[256, 384]).unwrap().unwrap().dimensions(), shape[0]);
    assert!(read(&[256, 385]).unwrap_err().to_string().contains("[256, 385]"));
}

#[test]
fn positions_are_counted_from_behind_the_padding_token() {
    let mut fields = minilm();
    fields["model_type"] = "xlm-roberta".into();
    fields["pad_token_id"] = 1.into();
    fields["max_position_embeddings"] = 514.into();
    let config = config(&fields);
    assert_eq!((config.max_positions, config.learned.unwrap().offset), (512, 2));
    assert_eq!(config.kind(), "scalingnote encoder 1");
    fields["pad_token_id"] = 600.into();
    let error = read(fields.as_object().unwrap(), |_| None).unwrap_err();
    assert!(error.to_string().contains("pad_token_id is 600"), "{error}");
}

/// ModernBERT-base's, as its authors wrote it.
fn modernbert() -> Value {
    json!({
        "architectures": ["ModernBertForMaskedLM"], "attention_bias": false, "attention_dropout": 0.0,
        "embedding_dropout": 0.0, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
        "hidden_activation": "gelu", "hidden_size": 768, "intermediate_size": 1152, "layer_norm_eps": 1e-05,
        "local_attention": 128, "local_rope_theta": 10000.0, "max_position_embeddings": 8192,
        "mlp_bias": false, "model_type": "modernbert", "norm_bias": false, "norm_eps": 1e-05,
        "num_attention_heads": 12, "num_hidden_layers": 22, "pad_token_id": 50283,
        "position_embedding_type": "absolute", "vocab_size": 50368,
    })
}

#[test]
fn layers_see_all_keys_or_a_window() {
    let seen = |fields: &Value| -> Vec<bool> {
        config(fields).windows.iter().map(|window| *window == Window::FULL).collect()
    };
    let older = modernbert();
    let expected: Vec<bool> = (0..22).map(|at| at % 3 == 0).collect();
    assert_eq!(seen(&older), expected);
    assert_eq!(config(&older).windows[1], Window { before: 64, after: 64 });
    // The same as transformers 5 writes it.
    let mut newer = older.clone();
    let fields = newer.as_object_mut().unwrap();
    for key in ["global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"] {
        fields.remove(key);
    }
    let kinds =
        expected.iter().map(|full| if *full { "full_attention" } else { "sliding_attention" });
    fields.insert("layer_types".into(), kinds.collect());
    fields.insert(
        "rope_parameters".into(),
        json!({
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }),
    );
    assert_eq!(config(&newer), config(&older));
    newer["layer_types"][3] = "chunked_attention".into();
    let error = read(newer.as_object().unwrap(), |_| None).unwrap_err().to_string();
    assert!(error.contains("chunked_attention"), "{error}");
    // Null is the base of the other layers.
    let mut same = older;
    same["local_rope_theta"] = Value::Null;
    assert_eq!(config(&same).rotary.unwrap().local_theta, 160_000.);
}

#[test]
fn impossible_numbers_are_refused() {
    for (key, value) in [
        ("num_attention_heads", json!(7)),
        ("num_attention_heads", json!(0)),
        ("hidden_size", json!("wide")),
        ("vocab_size", json!(-3)),
        ("num_hidden_layers", Value::Null),
        ("num_hidden_layers", json!(1u64 << 50)),
        ("norm_eps", json!(0)),
        ("global_rope_theta", json!(0.5)),
        ("num_attention_heads", json!(256)),
    ] {
        let mut fields = modernbert();
        fields[key] = value;
        let error = read(fields.as_object().unwrap(), |_| None).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt, "{key}: {error}");
    }
}
