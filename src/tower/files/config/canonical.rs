//! What of a configuration decides a vector.

use serde::Serialize;
use serde_json::json;

use crate::tower::DecoderConfig;

/// The canonical form of a configuration for digests: what it means, not how a file spells it. A window of plain causal
/// layers is left out, as it always was: texts within it do not notice it (see [`beyond_window`]).
pub(crate) fn canonical(config: &DecoderConfig) -> impl Serialize {
    // f32 bits as integers: no dependence on how a float is printed.
    let factors = config.rope_factors.as_ref();
    let mut form = json!({
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
    });
    // What came later appears only where it is not what all models had before.
    if !config.causal {
        form["causal"] = false.into();
    }
    if config.rope_scale != 1. {
        form["rope_scale"] = config.rope_scale.to_bits().into();
    }
    if config.sliding.is_some() && config.plain_window().is_none() {
        form["sliding"] = sliding(config);
    }
    if let Some(gemma) = &config.gemma {
        form["query_scalar"] = gemma.query_scalar.to_bits().into();
    }
    form
}

/// What a text of more tokens than the first number depends on beside [`canonical`].
pub(crate) fn beyond_window(config: &DecoderConfig) -> Option<(usize, impl Serialize + use<>)> {
    config.plain_window().map(|most| (most, sliding(config)))
}

fn sliding(config: &DecoderConfig) -> serde_json::Value {
    let Some(sliding) = &config.sliding else { return serde_json::Value::Null };
    json!({
        "before": sliding.before, "after": sliding.after, "layers": sliding.layers,
        "rope_theta": sliding.rope_theta.map(f64::to_bits),
    })
}
