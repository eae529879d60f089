//! NomicBERT: BERT with rotation instead of embedded positions and a gated second half, usually without biases.
//!
//! Its configuration comes in two spellings: that of the Python code that its authors ship, which calls it a GPT-2, and
//! transformers' own. Weights are spelled the first way in both.

use serde_json::Value;

use super::rotary;
use crate::error::{Error, Result};
use crate::kernel::Activation;
use crate::tower::files::fields::Fields;
use crate::tower::model::encoder_config::{
    Biases, EncoderConfig, Qkv, Rotary, TensorNames, Up, all_keys,
};

const GATED: TensorNames = TensorNames {
    prefix: "bert.",
    words: "embeddings.word_embeddings",
    positions: "",
    types: "embeddings.token_type_embeddings",
    norm: "emb_ln",
    last_norm: "",
    relative: "",
    layer: "encoder.layers",
    qkv: Qkv::Fused("attn.Wqkv"),
    output: "attn.out_proj",
    attention_norm: "norm1",
    up: Up::Gated { gate: "mlp.fc12", up: "mlp.fc11" },
    down: "mlp.fc2",
    output_norm: "norm2",
};
const PLAIN: TensorNames = TensorNames { up: Up::Plain("mlp.fc1"), ..GATED };

pub(super) fn read(fields: Fields<'_>) -> Result<EncoderConfig> {
    let authors = fields.get("n_embd").is_some();
    for key in ["prenorm", "parallel_block", "use_rms_norm", "causal", "rotary_emb_interleaved"] {
        fields.refuse_unless(key, false)?;
    }
    for key in ["moe_every_n_layers", "num_experts"] {
        fields.refuse_unless(key, 0)?;
    }
    fields.refuse_unless("rotary_emb_fraction", 1)?;
    if let Some(base) = fields.get("rotary_emb_scale_base") {
        return Err(Error::unsupported(format!("rotary_emb_scale_base = {base} is not supported")));
    }
    let theta = match authors {
        true => rotary::checked(fields.number("rotary_emb_base")?.unwrap_or(10_000.))?,
        false => rotary::base(fields, None, "rope_theta", 1_000.)?,
    };
    let (activation, names) = activation(fields, authors)?;
    let gated = names == &GATED;
    let bias = |key| Ok::<_, Error>(fields.flag(key)?.unwrap_or(authors));
    let biases = Biases {
        qkv: bias("qkv_proj_bias")?,
        output: bias("qkv_proj_bias")?,
        up: bias("mlp_fc1_bias")?,
        down: bias("mlp_fc2_bias")?,
    };
    if gated && biases.up {
        return Err(Error::unsupported("mlp_fc1_bias = true is not supported in a gated layer"));
    }
    let positions = fields.first(&["n_positions", "max_position_embeddings"])?;
    let max_positions = match fields.get("rotary_scaling_factor") {
        None => positions,
        // Beyond the trained length, the base would depend on the length of the longest text of a batch.
        Some(_) => positions.min(fields.whole("max_trained_positions")?.unwrap_or(2048)),
    };
    let vocabulary = fields.count("vocab_size")?;
    let multiple = fields.whole("pad_vocab_size_multiple")?.unwrap_or(1).max(1);
    let layers = fields.first(&["n_layer", "num_hidden_layers"])?;
    let (epsilon, usual) =
        if authors { ("layer_norm_epsilon", 1e-5) } else { ("layer_norm_eps", 1e-12) };
    Ok(EncoderConfig {
        family: fields.family().to_owned(),
        vocab_size: vocabulary.next_multiple_of(multiple),
        hidden: fields.first(&["n_embd", "hidden_size"])?,
        inner: fields.first(&["n_inner", "intermediate_size"])?,
        layers,
        heads: fields.first(&["n_head", "num_attention_heads"])?,
        epsilon: fields.number(epsilon)?.unwrap_or(usual),
        activation,
        types: fields.whole("type_vocab_size")?.unwrap_or(2),
        learned: None,
        rotary: Some(Rotary { theta, local_theta: theta, ntk: 1. }),
        relative: None,
        pre_norm: false,
        norm_bias: true,
        biases,
        windows: all_keys(layers),
        max_positions,
        projected: None,
        names,
    })
}

/// The activation, and the names of a layer that is gated or not.
fn activation(fields: Fields<'_>, authors: bool) -> Result<(Activation, &'static TensorNames)> {
    if !authors {
        return Ok((fields.activation("hidden_act")?, &GATED));
    }
    match fields.get("activation_function").and_then(Value::as_str) {
        Some("swiglu") => Ok((Activation::Silu, &GATED)),
        Some("geglu") => Ok((Activation::Gelu, &GATED)),
        _ => Ok((fields.activation("activation_function")?, &PLAIN)),
    }
}
