//! ModernBERT: norms before each half of a layer and none with a bias, rotation instead of embedded positions, gated
//! GELU, and two kinds of layers in turn, each with a base of its own: those that see all keys, and those that see a
//! window.

use serde_json::Value;

use super::bert::{self, Sizes};
use super::rotary;
use crate::error::{Error, Result};
use crate::kernel::Window;
use crate::tower::files::fields::Fields;
use crate::tower::model::encoder_config::{
    Biases, EncoderConfig, Qkv, Rotary, TensorNames, Up, all_keys,
};

const NAMES: TensorNames = TensorNames {
    prefix: "model.",
    words: "embeddings.tok_embeddings",
    positions: "",
    types: "",
    norm: "embeddings.norm",
    last_norm: "final_norm",
    relative: "",
    layer: "layers",
    qkv: Qkv::Fused("attn.Wqkv"),
    output: "attn.Wo",
    attention_norm: "attn_norm",
    up: Up::GateFirst("mlp.Wi"),
    down: "mlp.Wo",
    output_norm: "mlp_norm",
};

/// What transformers calls the two kinds of layers.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

pub(super) fn read(fields: Fields<'_>) -> Result<EncoderConfig> {
    fields.refuse_unless("mlp_bias", false)?;
    let biased = fields.flag("attention_bias")?.unwrap_or(false);
    let theta = rotary::base(fields, Some(FULL), "global_rope_theta", 160_000.)?;
    // Null: the same as of the other layers. Absent: what the family has.
    let local = match fields.0.get("local_rope_theta") {
        Some(Value::Null) => theta,
        _ => 10_000.,
    };
    let local_theta = rotary::base(fields, Some(SLIDING), "local_rope_theta", local)?;
    let sizes = Sizes { activation: "hidden_activation", ..bert::SIZES };
    Ok(EncoderConfig {
        epsilon: fields.number("norm_eps")?.unwrap_or(1e-5),
        types: 0,
        learned: None,
        rotary: Some(Rotary { theta, local_theta, ntk: 1. }),
        pre_norm: true,
        norm_bias: fields.flag("norm_bias")?.unwrap_or(false),
        biases: Biases { qkv: biased, output: biased, up: false, down: false },
        windows: windows(fields)?,
        ..bert::of(fields, &sizes, &NAMES)?
    })
}

/// The keys that each layer sees.
fn windows(fields: Fields<'_>) -> Result<Vec<Window>> {
    // The whole window; a key belongs to it up to half of that away, on either side.
    let half = fields.whole("local_attention")?.unwrap_or(128) / 2;
    let local = Window { before: half, after: half };
    let layers = fields.count("num_hidden_layers")?;
    let Some(types) = fields.get("layer_types") else {
        let every = fields.whole("global_attn_every_n_layers")?.unwrap_or(3);
        let mut windows = all_keys(layers);
        let locals = windows.iter_mut().enumerate().filter(|(at, _)| !at.is_multiple_of(every));
        locals.for_each(|(_, window)| *window = local);
        return Ok(windows);
    };
    let types = types.as_array().filter(|types| types.len() == layers);
    let types = types.ok_or_else(|| {
        Error::corrupt(format!("layer_types is not a list of {layers}, one for each layer"))
    })?;
    let window = |kind: &Value| match kind.as_str() {
        Some(FULL) => Ok(Window::FULL),
        Some(SLIDING) => Ok(local),
        _ => Err(Error::unsupported(format!(
            "layer_types has {kind}; {FULL} and {SLIDING} are supported"
        ))),
    };
    types.iter().map(window).collect()
}
