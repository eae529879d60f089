use super::*;

fn smollm() -> Map<String, Value> {
    let value = serde_json::json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 100000,
        "max_position_embeddings": 8192, "hidden_act": "silu", "rope_scaling": null,
        "attention_bias": false, "tie_word_embeddings": true,
    });
    value.as_object().unwrap().clone()
}

fn with(key: &str, value: Value) -> Result<DecoderConfig> {
    let mut fields = smollm();
    fields.insert(key.into(), value);
    from_json(&fields)
}

#[test]
fn a_llama_configuration() {
    let config = from_json(&smollm()).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.max_positions), (64, 3, 8192));
    assert_eq!((config.rope_theta, config.rope_factors), (100_000.0, None));
    assert!(!config.qkv_bias && !config.qk_norm);
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    for (key, value) in [
        ("model_type", "gemma2".into()),
        ("hidden_act", "gelu".into()),
        ("attention_bias", true.into()),
        ("mlp_bias", true.into()),
        ("quantization_config", serde_json::json!({"quant_method": "gptq"})),
        ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0})),
        ("partial_rotary_factor", 0.5.into()),
        ("auto_map", serde_json::json!({"AutoModel": "modeling_own.OwnModel"})),
    ] {
        let error = with(key, value.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let named = if key == "model_type" { "gemma2" } else { key };
        let named = if key == "rope_scaling" { "yarn" } else { named };
        assert!(error.to_string().contains(named), "{error}");
    }
    for (key, value) in [
        ("num_attention_heads", Value::from(0)),
        ("num_key_value_heads", 4.into()),
        ("head_dim", 7.into()),
        ("hidden_size", 1u64.wrapping_shl(40).into()),
        ("vocab_size", (-3).into()),
        ("rope_theta", 0.5.into()),
        ("rms_norm_eps", "tiny".into()),
    ] {
        assert_eq!(with(key, value).unwrap_err().kind(), ErrorKind::Corrupt, "{key}");
    }
}

#[test]
fn llama3_factors_follow_the_reference() {
    // Llama-3.2-1B's scaling; the values are transformers' `_compute_llama3_parameters`.
    let mut fields = smollm();
    fields.insert("rope_theta".into(), 500_000.0.into());
    fields.insert(
        "rope_scaling".into(),
        serde_json::json!({
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }),
    );
    let factors = from_json(&fields).unwrap().rope_factors.unwrap();
    assert_eq!(factors.len(), 32);
    assert_eq!((factors[0], factors[31]), (1.0, 32.0));
    // Pair 16: frequency 500000^-0.5, 1.8438 turns, smooth 0.28127.
    assert!((factors[16] - 3.292_9).abs() < 1e-2, "{}", factors[16]);
    assert!(factors.is_sorted());
}

/// Spaces of releases before windows and bidirectional decoders hang on these digests.
#[test]
fn what_a_configuration_means_keeps_its_digest() {
    let digest = |fields: &Map<String, Value>| {
        crate::types::hash_json(&canonical(&from_json(fields).unwrap())).unwrap().to_string()
    };
    let of = |family: &str, more: &[(&str, Value)]| {
        let mut fields = smollm();
        fields.insert("model_type".into(), family.into());
        fields.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        digest(&fields)
    };
    let mistral = "962f74fc2d6ca3ae514cc63afc7f6822f74fc43529e94fa98bc26aa7dcd34573";
    assert_eq!(
        of("llama", &[]),
        "2e968709e1f19aff84905585ecf5ac04b60b956b391b661d4cc77be48efe833a"
    );
    assert_eq!(of("mistral", &[]), mistral);
    assert_eq!(of("mistral", &[("sliding_window", 4096.into())]), mistral);
    assert_eq!(
        of("qwen2", &[]),
        "7ba61343811829c4f7fcb858f3084e636d60e53e61b76f810e6b4e609c2b0e8d"
    );
    assert_eq!(
        of("qwen3", &[]),
        "a79b09231b3c45c14f4ffe2a4eee622c0aa2c249628ba573ab18c3762bb0ed6c"
    );
    assert_ne!(of("mistral", &[("is_causal", false.into())]), mistral);
}

#[test]
fn a_sliding_window_is_computed() {
    let of = |family: &str, more: Value| {
        let mut fields = smollm();
        fields.insert("model_type".into(), family.into());
        fields.extend(more.as_object().unwrap().clone());
        from_json(&fields)
    };
    let window = |config: &DecoderConfig, layer| {
        let window = config.window(layer);
        (window.before, window.after)
    };
    let all = usize::MAX;
    let config = of("mistral", json!({"sliding_window": 4096})).unwrap();
    assert_eq!((config.max_positions, config.plain_window()), (8192, Some(4096)));
    assert_eq!(window(&config, 29), (4095, 0));
    let (most, _) = beyond_window(&config).unwrap();
    assert_eq!(most, 4096);
    // Not longer than the model's positions: no window at all.
    let config = of("mistral", json!({"sliding_window": 8192})).unwrap();
    assert_eq!((window(&config, 0), config.plain_window()), ((all, 0), None));
    let config = of("mistral", json!({"sliding_window": 4096, "is_causal": false})).unwrap();
    assert_eq!((window(&config, 0), config.plain_window()), ((4096, 4096), None));

    let used = json!({"use_sliding_window": true, "sliding_window": 100, "max_window_layers": 2});
    let config = of("qwen2", used.clone()).unwrap();
    assert_eq!((window(&config, 1), window(&config, 2)), ((all, 0), (99, 0)));
    let mut unused = used;
    unused["use_sliding_window"] = false.into();
    assert_eq!(of("qwen2", unused).unwrap().sliding, None);
    let listed = json!({"use_sliding_window": true, "sliding_window": 100, "layer_types": ["sliding_attention"]});
    assert!(of("qwen3", listed).unwrap_err().to_string().contains("layer_types"));
    let listed = json!({"layer_types": vec!["chunked_attention"; 30]});
    assert_eq!(of("qwen3", listed).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn attention_in_both_directions() {
    let of = |more: Value| {
        let mut fields = smollm();
        fields.extend(more.as_object().unwrap().clone());
        from_json(&fields)
    };
    let nvidia = json!({
        "model_type": "llama_bidirec", "auto_map": {
            "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
            "AutoModel": "nvidia/x--llama_bidirectional_model.LlamaBidirectionalModel",
        },
    });
    let config = of(nvidia.clone()).unwrap();
    assert_eq!((config.family.as_str(), config.causal), ("llama", false));
    let gte = json!({
        "model_type": "qwen2", "is_causal": false, "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"},
    });
    assert!(!of(gte.clone()).unwrap().causal);
    assert!(!of(json!({"use_bidirectional_attention": true})).unwrap().causal);
    // The same code goes by a field that has to be there; others' code does not count.
    let mut silent = gte;
    silent.as_object_mut().unwrap().remove("is_causal");
    let mut other = nvidia;
    other["auto_map"]["AutoModel"] =
        "llama_bidirectional_model.LlamaBidirectionalForSequence".into();
    for refused in [silent, other] {
        let error = of(refused).unwrap_err();
        assert!(error.to_string().contains("auto_map"), "{error}");
    }
    let both = of(json!({"use_bidirectional_attention": true, "is_causal": true})).unwrap_err();
    assert!(both.to_string().contains("contradict"), "{both}");
}

fn gemma(more: Value) -> Result<DecoderConfig> {
    // EmbeddingGemma's numbers.
    let mut fields = json!({
        "model_type": "gemma3_text", "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 24,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144,
        "max_position_embeddings": 2048, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10_000.0, "rope_theta": 1_000_000.0, "sliding_window": 512,
        "hidden_activation": "gelu_pytorch_tanh", "final_logit_softcapping": null,
        "attn_logit_softcapping": null, "attention_bias": false, "use_bidirectional_attention": true,
    });
    let fields = fields.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    from_json(fields)
}

#[test]
fn gemma_configurations() {
    let config = gemma(json!({})).unwrap();
    assert!(config.qk_norm && !config.causal && config.plain_window().is_none());
    let sliding = config.sliding.as_ref().unwrap();
    // Half a window to either side, five layers of six.
    assert_eq!((sliding.before, sliding.after, sliding.rope_theta), (256, 256, Some(1e4)));
    let full = (0..24).filter(|layer| !config.slides(*layer)).collect::<Vec<_>>();
    assert_eq!((full, config.rope_theta), (vec![5, 11, 17, 23], 1e6));
    let causal = gemma(json!({"use_bidirectional_attention": null})).unwrap();
    assert_eq!(causal.sliding.unwrap().before, 511);

    // As transformers 5 saves it.
    let parameters = json!({
        "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
    });
    let config = gemma(json!({"rope_parameters": parameters})).unwrap();
    assert_eq!((config.sliding.unwrap().rope_theta, config.rope_theta), (Some(2e4), 2e6));
    assert_eq!(config.rope_factors, Some(vec![8.; 128]));

    for (more, named) in [
        (json!({"hidden_activation": "gelu"}), "hidden_activation"),
        (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (json!({"is_causal": false}), "is_causal"),
        (json!({"layer_types": vec!["chunked_attention"; 24]}), "chunked_attention"),
        (
            json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
            "sliding layers",
        ),
    ] {
        let error = gemma(more).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn a_gemma_of_images_is_refused() {
    let text = json!({"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34,
        "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let mut fields = json!({"model_type": "gemma3", "text_config": text});
    let config = from_json(fields.as_object().unwrap()).unwrap();
    // What is left out is Gemma3TextConfig's own default.
    assert_eq!((config.heads, config.head_dim, config.vocab_size), (8, 256, 262_208));
    fields["vision_config"] = json!({"hidden_size": 1152});
    let error = from_json(fields.as_object().unwrap()).unwrap_err();
    assert!(error.to_string().contains("vision_config"), "{error}");
}

#[test]
fn longrope_ends_where_the_model_began() {
    let mut fields = smollm();
    let scaling =
        json!({"type": "su", "short_factor": vec![1.5; 32], "long_factor": vec![4.0; 32]});
    fields.insert("model_type".into(), "phi3".into());
    fields.insert("rope_scaling".into(), scaling);
    fields.insert("original_max_position_embeddings".into(), 4096.into());
    fields.insert(
        "auto_map".into(),
        json!({"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}),
    );
    let config = from_json(&fields).unwrap();
    assert_eq!((config.max_positions, config.rope_factors.unwrap()[3]), (4096, 1.5));
    // sqrt(1 + ln 2 / ln 4096).
    assert!((config.rope_scale - 1.040_833).abs() < 1e-5, "{}", config.rope_scale);
    fields["rope_scaling"]["short_factor"] = vec![1.5; 31].into();
    assert_eq!(from_json(&fields).unwrap_err().kind(), ErrorKind::Corrupt);
}
