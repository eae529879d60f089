//! Hugging Face `config.json` to [`DecoderConfig`]: what this decoder cannot compute is refused by name.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::DecoderConfig;
use crate::tower::files::disk::read_small;

const MAX_CONFIG: u64 = 16 << 20;
/// Families whose forward pass the decoder implements.
pub(crate) const FAMILIES: [&str; 4] = ["llama", "qwen2", "qwen3", "mistral"];

/// Reads a JSON object from a small file.
pub(crate) fn read_json(path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(&read_small(path, MAX_CONFIG)?)
        .or_error(ErrorKind::Corrupt, || format!("{} is no JSON object", path.display()))
}

/// The architecture that a `config.json` describes.
///
/// # Errors
/// Unsupported for another family, activation, bias, RoPE type, quantisation or attention pattern; Corrupt
/// for a missing or impossible number.
pub(crate) fn from_json(fields: &Map<String, Value>) -> Result<DecoderConfig> {
    let family = match fields.get("model_type").and_then(Value::as_str) {
        Some(family) if FAMILIES.contains(&family) => family.to_owned(),
        Some(other) => return Err(unsupported_family(other)),
        None => return Err(Error::corrupt("it has no model_type")),
    };
    for (key, why) in [
        ("quantization_config", "its weights are quantised in a way that cannot be read here"),
        ("auto_map", "it brings Python code of its own, which may change what the model computes"),
    ] {
        if fields.get(key).is_some_and(|value| !value.is_null()) {
            return Err(Error::unsupported(format!("{key} is set: {why}")));
        }
    }
    refuse_unless(fields, "hidden_act", &Value::from("silu"))?;
    refuse_unless(fields, "mlp_bias", &Value::from(false))?;
    refuse_unless(fields, "is_causal", &Value::from(true))?;
    refuse_unless(fields, "use_bidirectional_attention", &Value::from(false))?;
    if family != "qwen2" {
        // Biases on o_proj come with it.
        refuse_unless(fields, "attention_bias", &Value::from(false))?;
    }
    let rope = ["rope_parameters", "rope_scaling"]
        .into_iter()
        .find_map(|key| fields.get(key).filter(|value| !value.is_null()));
    let rope = match rope {
        None => None,
        Some(Value::Object(rope)) => Some(rope),
        Some(_) => return Err(Error::corrupt("rope_scaling is no object")),
    };
    let partial = |from: &Map<String, Value>| {
        from.get("partial_rotary_factor").and_then(Value::as_f64).is_some_and(|part| part != 1.0)
    };
    if partial(fields) || rope.is_some_and(partial) {
        return Err(Error::unsupported("partial_rotary_factor other than 1 is not supported"));
    }
    let hidden_size = count(fields, "hidden_size")?;
    let heads = count(fields, "num_attention_heads")?;
    let rope_theta = match rope.and_then(|rope| rope.get("rope_theta")).or(fields.get("rope_theta"))
    {
        None => 10_000.0,
        Some(theta) => theta.as_f64().ok_or_else(|| Error::corrupt("rope_theta is no number"))?,
    };
    let mut config = DecoderConfig {
        vocab_size: count(fields, "vocab_size")?,
        hidden_size,
        intermediate_size: count(fields, "intermediate_size")?,
        layers: count(fields, "num_hidden_layers")?,
        heads,
        kv_heads: optional_count(fields, "num_key_value_heads")?.unwrap_or(heads),
        head_dim: match optional_count(fields, "head_dim")? {
            Some(width) => width,
            // Qwen3Config's own default; the other families derive it.
            None if family == "qwen3" => 128,
            None => hidden_size / heads,
        },
        rms_norm_eps: match fields.get("rms_norm_eps") {
            None => 1e-6,
            Some(eps) => eps.as_f64().ok_or_else(|| Error::corrupt("rms_norm_eps is no number"))?,
        },
        rope_theta,
        rope_factors: None,
        qkv_bias: family == "qwen2",
        qk_norm: family == "qwen3",
        max_positions: count(fields, "max_position_embeddings")?,
        family,
    };
    check(&config)?;
    config.rope_factors = rope.map_or(Ok(None), |rope| rope_factors(rope, &config))?;
    if let Some(window) = sliding_window(fields, &config.family)? {
        // Within the window, windowed attention is full attention.
        config.max_positions = config.max_positions.min(window);
    }
    Ok(config)
}

/// The canonical form of a configuration for digests: what it means, not how a file spells it.
pub(crate) fn canonical(config: &DecoderConfig) -> impl Serialize {
    // f32 bits as integers: no dependence on how a float is printed.
    let factors = config.rope_factors.as_ref();
    serde_json::json!({
        "family": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps.to_bits(),
        "rope_theta": config.rope_theta.to_bits(),
        "rope_factors": factors.map(|all| all.iter().map(|one| one.to_bits()).collect::<Vec<_>>()),
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
    })
}

/// Refuses numbers no decoder can have, so that later arithmetic can trust them.
pub(crate) fn check(config: &DecoderConfig) -> Result<()> {
    let wrong = |message: String| Err(Error::corrupt(message));
    let limits = [
        ("vocabulary size", config.vocab_size, 1 << 22),
        ("hidden size", config.hidden_size, 1 << 17),
        ("intermediate size", config.intermediate_size, 1 << 20),
        ("layer count", config.layers, 1 << 10),
        ("head count", config.heads, 1 << 12),
        ("key/value head count", config.kv_heads, 1 << 12),
        ("head width", config.head_dim, 1 << 12),
        ("position count", config.max_positions, 1 << 28),
    ];
    for (what, value, limit) in limits {
        if value == 0 || value > limit {
            return wrong(format!("a {what} of {value} is not between 1 and {limit}"));
        }
    }
    if !config.heads.is_multiple_of(config.kv_heads) {
        return wrong(format!(
            "{} heads cannot share {} key/value heads",
            config.heads, config.kv_heads
        ));
    }
    if !config.head_dim.is_multiple_of(2) {
        return wrong(format!("a head width of {} is odd", config.head_dim));
    }
    if !(config.rope_theta.is_finite() && config.rope_theta > 1.0) {
        return wrong(format!("a RoPE base of {} is impossible", config.rope_theta));
    }
    if !(config.rms_norm_eps > 0.0 && config.rms_norm_eps < 1.0) {
        return wrong(format!("an RMSNorm epsilon of {} is impossible", config.rms_norm_eps));
    }
    Ok(())
}

fn rope_factors(rope: &Map<String, Value>, config: &DecoderConfig) -> Result<Option<Vec<f32>>> {
    let kind = ["rope_type", "type"].into_iter().find_map(|key| rope.get(key)?.as_str());
    let number = |key: &str| match rope.get(key).and_then(Value::as_f64) {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(Error::corrupt(format!("rope_scaling lacks a positive {key}"))),
    };
    match kind.unwrap_or("default") {
        "default" => Ok(None),
        "linear" => Ok(Some(vec![number("factor")? as f32; config.head_dim / 2])),
        "llama3" => {
            let factor = number("factor")?;
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high <= low {
                return Err(Error::corrupt("high_freq_factor is not above low_freq_factor"));
            }
            let trained = number("original_max_position_embeddings")?;
            let divisor = |pair: usize| {
                let frequency = config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64);
                // Periods of the rotation that fit in the length it was trained for.
                let turns = trained * frequency / std::f64::consts::TAU;
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            };
            Ok(Some((0..config.head_dim / 2).map(divisor).collect()))
        }
        other => Err(Error::unsupported(format!(
            "RoPE scaling of type {other:?} is not supported (default, linear and llama3 are)"
        ))),
    }
}

fn sliding_window(fields: &Map<String, Value>, family: &str) -> Result<Option<usize>> {
    let used = match fields.get("use_sliding_window") {
        Some(Value::Bool(used)) => *used,
        // Qwen's configurations carry a window that is off unless said otherwise.
        _ => family == "mistral",
    };
    if used { optional_count(fields, "sliding_window") } else { Ok(None) }
}

fn refuse_unless(fields: &Map<String, Value>, key: &str, wanted: &Value) -> Result<()> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(found) if found == wanted => Ok(()),
        Some(found) => {
            Err(Error::unsupported(format!("{key} = {found} is not supported (only {wanted} is)")))
        }
    }
}

fn count(fields: &Map<String, Value>, key: &str) -> Result<usize> {
    optional_count(fields, key)?.ok_or_else(|| Error::corrupt(format!("it has no {key}")))
}

fn optional_count(fields: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            Some(value) if value > 0 => Ok(Some(value)),
            _ => Err(Error::corrupt(format!("{key} is not a positive whole number"))),
        },
    }
}

pub(crate) fn unsupported_family(family: &str) -> Error {
    Error::unsupported(format!(
        "models of the family {family:?} are not supported ({} are)",
        FAMILIES.join(", ")
    ))
}

#[cfg(test)]
mod tests {
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
            ("model_type", "gemma3".into()),
            ("hidden_act", "gelu".into()),
            ("attention_bias", true.into()),
            ("mlp_bias", true.into()),
            ("quantization_config", serde_json::json!({"quant_method": "gptq"})),
            ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0})),
            ("partial_rotary_factor", 0.5.into()),
            ("is_causal", false.into()),
        ] {
            let error = with(key, value.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let named = if key == "model_type" { "gemma3" } else { key };
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

    #[test]
    fn a_sliding_window_bounds_the_length() {
        let mut fields = smollm();
        fields.insert("model_type".into(), "mistral".into());
        fields.insert("sliding_window".into(), 4096.into());
        assert_eq!(from_json(&fields).unwrap().max_positions, 4096);
        fields.insert("model_type".into(), "qwen2".into());
        fields.insert("use_sliding_window".into(), false.into());
        assert_eq!(from_json(&fields).unwrap().max_positions, 8192);
    }
}
