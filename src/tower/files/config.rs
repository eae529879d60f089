//! Hugging Face `config.json` to [`DecoderConfig`]: what this decoder cannot compute is refused by name.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::files::disk::read_small;
use crate::tower::files::fields::Fields;
use crate::tower::files::{custom_code, encoder};
use crate::tower::{DecoderConfig, Gemma, Sliding};

mod attention;
mod canonical;
mod rope;

pub(crate) use canonical::{beyond_window, canonical};

const MAX_CONFIG: u64 = 16 << 20;
/// Families whose forward pass the decoder implements.
pub(crate) const FAMILIES: [&str; 6] =
    ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text"];

/// Reads a JSON object from a small file.
pub(crate) fn read_json(path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(&read_small(path, MAX_CONFIG)?)
        .or_error(ErrorKind::Corrupt, || format!("{} is not a JSON object", path.display()))
}

/// The architecture that a `config.json` describes.
///
/// # Errors
/// Unsupported for another family, activation, bias, RoPE type, quantisation, attention pattern or code of its own;
/// Corrupt for a missing or impossible number.
pub(crate) fn from_json(fields: &Map<String, Value>) -> Result<DecoderConfig> {
    let fields = Fields(fields);
    let model_type = match fields.family() {
        "gemma3" => return from_json(text_alone(fields)?.0),
        "" => return Err(Error::corrupt("it has no model_type")),
        model_type => model_type,
    };
    let family = attention::family(model_type).to_owned();
    if !FAMILIES.contains(&family.as_str()) {
        return Err(unsupported_family(model_type));
    }
    fields.refuse_quantised()?;
    custom_code::check(fields)?;
    let completed;
    let (gemma, fields) = if family == "gemma3_text" {
        completed = gemma_fields(fields)?;
        let fields = Fields(&completed);
        let query_scalar = fields.number("query_pre_attn_scalar")?.filter(|n| *n > 0.0);
        let query_scalar = query_scalar
            .ok_or_else(|| Error::corrupt("query_pre_attn_scalar is not a positive number"))?;
        (Some(Gemma { query_scalar, norms_from_one: true }), fields)
    } else {
        fields.refuse_unless("hidden_act", "silu")?;
        (None, fields)
    };
    fields.refuse_unless("mlp_bias", false)?;
    if family != "qwen2" {
        // Biases on o_proj come with it.
        fields.refuse_unless("attention_bias", false)?;
    }
    let hidden_size = fields.count("hidden_size")?;
    let heads = fields.count("num_attention_heads")?;
    let head_dim = match fields.positive("head_dim")? {
        Some(width) => width,
        // Qwen3Config's own default; the other families derive it.
        None if family == "qwen3" => 128,
        None => hidden_size / heads,
    };
    // Phi3Config's own default.
    let default_eps = if family == "phi3" { 1e-5 } else { 1e-6 };
    let rope = rope::full(fields, head_dim)?;
    let max_positions = fields.count("max_position_embeddings")?;
    let config = DecoderConfig {
        vocab_size: fields.count("vocab_size")?,
        hidden_size,
        intermediate_size: fields.count("intermediate_size")?,
        layers: fields.count("num_hidden_layers")?,
        heads,
        kv_heads: fields.positive("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(default_eps),
        rope_theta: rope.theta,
        rope_factors: rope.factors,
        rope_scale: rope.scale,
        qkv_bias: family == "qwen2",
        qk_norm: family == "qwen3" || gemma.is_some(),
        max_positions: rope.longest.map_or(max_positions, |longest| longest.min(max_positions)),
        causal: attention::causal(fields, model_type)?,
        sliding: None,
        gemma,
        family,
    };
    check(&config)?;
    let sliding = attention::sliding(fields, &config)?;
    let sliding = match sliding {
        Some(sliding) if config.gemma.is_some() => {
            let rope_theta = Some(rope::sliding(fields, head_dim)?);
            Some(Sliding { rope_theta, ..sliding })
        }
        other => other,
    };
    Ok(DecoderConfig { sliding, ..config })
}

/// The decoder of a Gemma 3 that has no eyes.
fn text_alone(fields: Fields<'_>) -> Result<Fields<'_>> {
    if fields.get("vision_config").is_some() {
        return Err(Error::unsupported(
            "model_type is gemma3 with a vision_config: a model of images and text; its text decoder alone (gemma3_text) \
             is supported",
        ));
    }
    fields
        .object("text_config")?
        .filter(|text| text.family() == "gemma3_text")
        .ok_or_else(|| Error::corrupt("model_type is gemma3, but no text_config says gemma3_text"))
}

/// The fields of a `gemma3_text` with those that Gemma3TextConfig fills in itself.
fn gemma_fields(fields: Fields<'_>) -> Result<Map<String, Value>> {
    let mut known = Map::new();
    // Both are objects.
    if let Value::Object(defaults) = json!({
        "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131_072, "rope_theta": 1e6, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "sliding_window_pattern": 6,
    }) {
        known = defaults;
    }
    let given = fields.0.iter().filter(|(_, value)| !value.is_null());
    known.extend(given.map(|(key, value)| (key.clone(), value.clone())));
    fields.refuse_unless("hidden_activation", "gelu_pytorch_tanh")?;
    fields.refuse_unless("attn_logit_softcapping", Value::Null)?;
    // Says nothing of the window beside `use_bidirectional_attention`.
    fields.refuse_unless("is_causal", true)?;
    Ok(known)
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

pub(crate) fn unsupported_family(family: &str) -> Error {
    let known: Vec<&str> = FAMILIES.into_iter().chain(encoder::families()).collect();
    Error::unsupported(format!(
        "models of the family {family:?} are not supported ({} are)",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests;
