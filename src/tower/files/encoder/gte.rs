//! GTE of 2024 (`new`, and `gte` as transformers calls it): BERT with rotation instead of embedded positions, NTK-scaled in most
//! models, and a gated second half.

use serde_json::Value;

use super::{bert, rotary};
use crate::error::{Error, Result};
use crate::tower::files::fields::Fields;
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

pub(super) fn read(fields: Fields<'_>) -> Result<EncoderConfig> {
    fields.refuse_unless("position_embedding_type", "rope")?;
    fields.refuse_unless("layer_norm_type", "layer_norm")?;
    fields.refuse_unless("logn_attention_scale", false)?;
    fields.refuse_unless("pack_qkv", true)?;
    let ntk = ntk(fields)?;
    let theta = match ntk {
        Some(_) => rotary::checked(fields.number("rope_theta")?.unwrap_or(10_000.))?,
        None => rotary::base(fields, None, "rope_theta", 10_000.)?,
    };
    let types = fields.whole("type_vocab_size")?;
    Ok(EncoderConfig {
        types: types.ok_or_else(|| Error::corrupt("it has no type_vocab_size"))?,
        learned: None,
        rotary: Some(Rotary { theta, local_theta: theta, ntk: ntk.unwrap_or(1.) }),
        biases: Biases { up: false, ..Biases::ALL },
        ..bert::of(fields, &bert::SIZES, &NAMES)?
    })
}

/// The factor of a fixed NTK scaling.
fn ntk(fields: Fields<'_>) -> Result<Option<f64>> {
    let Some(scaling) = fields.object("rope_scaling")? else { return Ok(None) };
    if scaling.get("type").and_then(Value::as_str) != Some("ntk") {
        return Ok(None);
    }
    if let Some(mixed) = scaling.get("mixed_b") {
        return Err(Error::unsupported(format!("rope_scaling.mixed_b = {mixed} is not supported")));
    }
    let factor = scaling.number("factor")?.filter(|factor| *factor >= 1.);
    factor.map(Some).ok_or_else(|| Error::corrupt("rope_scaling lacks a factor of 1 or more"))
}
