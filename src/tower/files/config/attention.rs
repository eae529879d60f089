//! Which tokens a token sees, as a `config.json` says it.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::tower::files::fields::Fields;
use crate::tower::{DecoderConfig, Sliding};

/// NVIDIA's name for Llama without a causal mask (llama-embed-nemotron, llama-nemotron-embed).
const BIDIRECTIONAL_LLAMA: &str = "llama_bidirec";

/// The family that a `model_type` means here.
pub(super) fn family(model_type: &str) -> &str {
    if model_type == BIDIRECTIONAL_LLAMA { "llama" } else { model_type }
}

/// Whether a token sees only itself and those before it.
///
/// # Errors
/// Input where two fields contradict each other.
pub(super) fn causal(fields: Fields<'_>, model_type: &str) -> Result<bool> {
    let said = fields.flag("is_causal")?;
    let around = fields.flag("use_bidirectional_attention")?;
    if said == Some(true) && around == Some(true) {
        return Err(Error::input(
            "is_causal and use_bidirectional_attention contradict each other",
        ));
    }
    let around = around == Some(true) || said == Some(false) || model_type == BIDIRECTIONAL_LLAMA;
    Ok(!around)
}

/// The layers that slide, if any do; without a base of their own.
///
/// # Errors
/// Unsupported for another kind of layer; Corrupt for a list or a window that does not fit.
pub(super) fn sliding(fields: Fields<'_>, config: &DecoderConfig) -> Result<Option<Sliding>> {
    let used = match fields.flag("use_sliding_window")? {
        Some(used) => used,
        // Qwen's configurations carry a window that is off unless said otherwise.
        None => !matches!(config.family.as_str(), "qwen2" | "qwen3"),
    };
    let window = fields.positive("sliding_window")?.filter(|_| used);
    let layers = match layers(fields, config)? {
        Some(layers) if layers.contains(&true) => layers,
        _ => return Ok(None),
    };
    let Some(window) = window else {
        let listed = fields.get("layer_types").is_some();
        return match listed {
            true => Err(Error::corrupt("layer_types names sliding layers, but no sliding_window")),
            false => Ok(None),
        };
    };
    let (before, after) = match (config.causal, &config.gemma) {
        (true, _) => (window - 1, 0),
        // transformers halves Gemma's window, to either side; the others' holds to either side.
        (false, Some(_)) => (window / 2, window / 2),
        (false, None) => (window, window),
    };
    if config.gemma.is_none() && before + 1 >= config.max_positions {
        return Ok(None);
    }
    Ok(Some(Sliding { before, after, layers, rope_theta: None }))
}

/// Which layers slide where there is a window.
fn layers(fields: Fields<'_>, config: &DecoderConfig) -> Result<Option<Vec<bool>>> {
    let all = config.layers;
    match config.family.as_str() {
        "mistral" | "phi3" => return Ok(Some(vec![true; all])),
        "llama" => return Ok(None),
        _ => {}
    }
    if let Some(types) = fields.get("layer_types") {
        let slides = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(Error::unsupported(format!("layers of type {kind} are not supported"))),
        };
        let types = types.as_array().filter(|types| types.len() >= all);
        let types = types.ok_or_else(|| Error::corrupt("layer_types does not list every layer"))?;
        return types.iter().take(all).map(slides).collect::<Result<_>>().map(Some);
    }
    Ok(Some(if config.gemma.is_some() {
        let pattern = fields.count("sliding_window_pattern")?;
        (0..all).map(|layer| !(layer + 1).is_multiple_of(pattern)).collect()
    } else {
        // Qwen2Config's own default.
        let from = match fields.get("max_window_layers") {
            Some(from) => from.as_u64().unwrap_or(u64::MAX) as usize,
            None => 28,
        };
        (0..all).map(|layer| layer >= from).collect()
    }))
}
