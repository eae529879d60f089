//! GTE of 2024 (`new`, and `gte` as transformers calls it): BERT with rotation instead of embedded positions, NTK-scaled in most
//! models, and a gated second half.

use serde_json::Value;

use super::fields::Fields;
use super::rotary;
use crate::error::{Error, Result};
use crate::kernel::Window;
use crate::tower::model::encoder_config::{Biases, EncoderConfig, Qkv, Rotary, TensorNames, Up};

const NAMES: TensorNames = TensorNames {
    prefix: "new.",
    words: "embeddings.word_embeddings",
    positions: "",
    types: "embeddings.token_type_embeddings",
    norm: "embeddings.LayerNorm",
    last_norm: "",
    relative: "",
    layer: "encoder.layer",
    qkv: Qkv::Fused("attention.qkv_proj"),
    output: "attention.o_proj",
    attention_norm: "attn_ln",
    up: Up::GateLast("mlp.up_gate_proj"),
    down: "mlp.down_proj",
    output_norm: "mlp_ln",
};

pub(super) fn read(fields: &Fields<'_>) -> Result<EncoderConfig> {
    fields.refuse_unless("position_embedding_type", &[Value::from("rope")])?;
    fields.refuse_unless("layer_norm_type", &[Value::from("layer_norm")])?;
    fields.refuse_unless("logn_attention_scale", &[Value::Bool(false)])?;
    fields.refuse_unless("pack_qkv", &[Value::Bool(true)])?;
    let ntk = ntk(fields)?;
    let theta = match ntk {
        Some(_) => rotary::checked(fields.number("rope_theta", 10_000.)?)?,
        None => rotary::base(fields, None, "rope_theta", 10_000.)?,
    };
    let layers = fields.count(&["num_hidden_layers"])?;
    Ok(EncoderConfig {
        family: fields.family.to_owned(),
        vocab_size: fields.count(&["vocab_size"])?,
        hidden: fields.count(&["hidden_size"])?,
        inner: fields.count(&["intermediate_size"])?,
        layers,
        heads: fields.count(&["num_attention_heads"])?,
        epsilon: fields.number("layer_norm_eps", 1e-12)?,
        activation: fields.activation("hidden_act")?,
        types: fields.count(&["type_vocab_size"])?,
        learned: None,
        rotary: Some(Rotary { theta, local_theta: theta, ntk: ntk.unwrap_or(1.) }),
        relative: None,
        pre_norm: false,
        norm_bias: true,
        biases: Biases { up: false, ..Biases::ALL },
        windows: vec![Window::FULL; layers],
        max_positions: fields.count(&["max_position_embeddings"])?,
        projected: None,
        names: &NAMES,
    })
}

/// The factor of a fixed NTK scaling.
fn ntk(fields: &Fields<'_>) -> Result<Option<f64>> {
    let Some(scaling) = fields.get("rope_scaling").and_then(Value::as_object) else {
        return Ok(None);
    };
    if scaling.get("type").and_then(Value::as_str) != Some("ntk") {
        return Ok(None);
    }
    if let Some(mixed) = scaling.get("mixed_b").filter(|mixed| !mixed.is_null()) {
        return Err(Error::unsupported(format!("rope_scaling.mixed_b = {mixed} is not supported")));
    }
    let factor = scaling.get("factor").and_then(Value::as_f64).filter(|factor| *factor >= 1.);
    factor.map(Some).ok_or_else(|| Error::corrupt("rope_scaling lacks a factor of 1 or more"))
}
