use serde_json::json;

use super::*;

const V: &str = "model.layers.1.self_attn.v_proj";

/// A configuration as PEFT 0.21 writes it, changed in one key.
fn with(key: &str, value: Value) -> Map<String, Value> {
    let mut whole = json!({
        "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
        "base_model_name_or_path": "org/model", "bias": "none", "corda_config": null, "ensure_weight_tying": false,
        "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
        "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 6, "lora_bias": false, "lora_dropout": 0.1,
        "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
        "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 2,
        "rank_pattern": {}, "revision": null, "target_modules": ["v_proj"], "target_parameters": null,
        "task_type": "FEATURE_EXTRACTION", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false,
        "use_qalora": false, "use_rslora": false, "velora_config": null,
    });
    whole[key] = value;
    whole.as_object().unwrap().clone()
}

fn scale(key: &str, value: Value) -> Result<f64> {
    LoraConfig::new(&with(key, value))?.scale(V, 2)
}

#[test]
fn what_is_understood_is_computed() {
    let root = 6.0 / 2f64.sqrt();
    for (key, value, expected) in [
        ("peft_type", json!("LORA"), 3.0),
        ("lora_alpha", json!(6.5), 3.25),
        ("lora_alpha", json!(0), 0.0),
        ("use_rslora", json!(true), root),
        ("use_rslora", json!(null), 3.0),
        ("r", json!(null), 3.0),
        ("rank_pattern", json!({"k_proj": 4, "v_proj": 2}), 3.0),
        ("alpha_pattern", json!({"self_attn.v_proj": 8}), 4.0),
        ("alpha_pattern", json!({"model.layers.1.self_attn.v_proj": 8}), 4.0),
        ("alpha_pattern", json!({"^model\\.layers\\.1\\.self_attn\\.v_proj$": 8}), 4.0),
        ("alpha_pattern", json!({"^layers.1.self_attn.v_proj": 8}), 3.0),
        ("alpha_pattern", json!({"attn.v_proj": 8}), 3.0),
        // The first that fits, in the order of the file; a dot is any character.
        ("alpha_pattern", json!({"v_proj": 8, "self_attn.v_proj": 10}), 4.0),
        ("alpha_pattern", json!({"self_attn.v_proj": 10, "v_proj": 8}), 5.0),
        ("alpha_pattern", json!({"v.proj": 8}), 4.0),
        ("target_modules", json!([V]), 3.0),
        ("alpha_pattern", json!({"(v|k)_proj": 8}), 4.0),
        ("alpha_pattern", json!({"layers.1.*v_proj": 8}), 4.0),
        ("alpha_pattern", json!({"layers.2.*v_proj": 8}), 3.0),
        ("rank_pattern", json!({"v_.*": 2}), 3.0),
        ("target_modules", json!(".*v_proj"), 3.0),
        ("target_modules", json!("^(?!.*vision).*(?:q_proj|v_proj)$"), 3.0),
        ("target_modules", json!("ALL-linear"), 3.0),
        ("exclude_modules", json!(".*k_proj"), 3.0),
        ("exclude_modules", json!("v_proj"), 3.0),
        ("target_modules", json!("all-linear"), 3.0),
        ("target_modules", json!(null), 3.0),
        ("exclude_modules", json!(["lm_head"]), 3.0),
        ("layers_to_transform", json!([0, 1]), 3.0),
        ("layers_to_transform", json!(1), 3.0),
        ("layers_to_transform", json!([]), 3.0),
        ("layers_pattern", json!("layers"), 3.0),
        ("init_lora_weights", json!(false), 3.0),
        ("init_lora_weights", json!("gaussian"), 3.0),
        ("init_lora_weights", json!("Gaussian"), 3.0),
        ("init_lora_weights", json!("eva"), 3.0),
        ("init_lora_weights", json!("orthogonal"), 3.0),
        ("init_lora_weights", json!("mica"), 3.0),
        ("eva_config", json!({"rho": 2.0}), 3.0),
        ("corda_config", json!({"corda_method": "ipm"}), 3.0),
        ("loftq_config", json!({"loftq_bits": 4}), 3.0),
        ("lora_dropout", json!(0.5), 3.0),
        ("inference_mode", json!(false), 3.0),
        ("task_type", json!("CAUSAL_LM"), 3.0),
        ("auto_mapping", json!({"base_model_class": "LlamaModel"}), 3.0),
        ("runtime_config", json!({"ephemeral_gpu_offload": true}), 3.0),
        ("merge_weights", json!(true), 3.0),
        ("qalora_group_size", json!(32), 3.0),
        ("ensure_weight_tying", json!(true), 3.0),
        ("modules_to_save", json!([]), 3.0),
        ("layer_replication", json!([]), 3.0),
        ("enable_lora", json!(null), 3.0),
        ("a_key_of_tomorrow", json!(null), 3.0),
    ] {
        let found = scale(key, value.clone()).map_err(|error| format!("{key} {value}: {error}"));
        assert_eq!(found, Ok(expected), "{key} {value}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("peft_type", json!("ADALORA")),
        ("peft_type", json!(["LORA"])),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("OLoRA")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("a way of tomorrow")),
        ("init_lora_weights", json!(1)),
        ("alora_invocation_tokens", json!([1, 2])),
        ("arrow_config", json!({"top_k": 3})),
        ("enable_lora", json!([true, false, true])),
        ("fan_in_fan_out", json!(true)),
        ("kasa_config", json!({"beta": 0.1})),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("lora_bias", json!(true)),
        ("megatron_config", json!({"hidden_size": 8})),
        ("modules_to_save", json!(["score"])),
        ("monteclora_config", json!({"num_samples": 8})),
        ("target_parameters", json!(["experts.down_proj"])),
        ("trainable_token_indices", json!([5])),
        ("trainable_token_indices", json!({"embed_tokens": [5]})),
        ("use_bdlora", json!({"nblocks": 2})),
        ("use_dora", json!(true)),
        ("use_dora", json!("true")),
        ("use_dora", json!(1)),
        ("use_qalora", json!(true)),
        ("velora_config", json!({"num_groups": 64})),
        ("a_key_of_tomorrow", json!(true)),
        ("a_key_of_tomorrow", json!(false)),
        ("a_key_of_tomorrow", json!({"strength": 2})),
        // Understood keys with values that mean nothing, or something else than is stored.
        ("lora_alpha", json!(null)),
        ("lora_alpha", json!("6")),
        ("use_rslora", json!("true")),
        ("use_rslora", json!(1)),
        ("r", json!(4)),
        ("r", json!("2")),
        ("rank_pattern", json!({"v_proj": 4})),
        ("rank_pattern", json!([2])),
        ("rank_pattern", json!({"v_.*": 4})),
        ("rank_pattern", json!({"[[v]]_proj": 2})),
        ("alpha_pattern", json!({"(v_proj": 8})),
        ("alpha_pattern", json!({"v_proj": "8"})),
        ("target_modules", json!(["k_proj"])),
        ("target_modules", json!("v_proj")),
        ("target_modules", json!("^(?!.*self_attn).*(?:q_proj|v_proj)$")),
        ("target_modules", json!(r".*\p{L}_proj")),
        ("exclude_modules", json!(".*\\.layers\\.1\\..*")),
        ("layers_pattern", json!({"layers": 1})),
        ("target_modules", json!({"v_proj": 1})),
        ("target_modules", json!([1])),
        ("exclude_modules", json!(["v_proj"])),
        ("layers_to_transform", json!([0])),
        ("layers_to_transform", json!(0)),
        ("layers_to_transform", json!("1")),
    ] {
        let error = scale(key, value.clone()).expect_err(&format!("{key} {value}"));
        let said = error.to_string();
        assert!(said.contains(key), "{key} {value}: {said}");
        if error.kind() == crate::error::ErrorKind::Unsupported {
            let way_out = ["merge_and_unload", "without it"];
            assert!(way_out.iter().any(|words| said.contains(words)), "{said}");
        }
    }
}

#[test]
fn the_order_of_patterns_is_identity_where_it_decides() {
    let canonical = |value| LoraConfig::new(&with("alpha_pattern", value)).unwrap().canonical();
    let sorted = canonical(json!({"k_proj": 8, "v_proj": 8}));
    assert_ne!(canonical(json!({"v_proj": 8, "k_proj": 8})), sorted);
    // As 0.1.0 wrote it: what it digested has the same digest.
    let eight = 8f64.to_bits();
    let alphas = json!({"k_proj": eight, "v_proj": eight});
    assert_eq!(sorted, json!({"alpha": 6f64.to_bits(), "stabilised": false, "alphas": alphas}));
}
