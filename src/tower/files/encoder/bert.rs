//! BERT: learned positions, token types, a norm behind each half of a layer, biases everywhere.

use crate::error::Result;
use crate::tower::files::fields::Fields;
use crate::tower::model::encoder_config::{
    Biases, EncoderConfig, Learned, Qkv, TensorNames, Up, all_keys,
};

pub(super) const NAMES: TensorNames = TensorNames {
    prefix: "bert.",
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "embeddings.token_type_embeddings",
    norm: "embeddings.LayerNorm",
    last_norm: "",
    relative: "",
    layer: "encoder.layer",
    qkv: Qkv::Apart(["attention.self.query", "attention.self.key", "attention.self.value"]),
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: Up::Plain("intermediate.dense"),
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

/// Where a family has its sizes.
pub(super) struct Sizes {
    pub(super) hidden: &'static str,
    pub(super) inner: &'static str,
    pub(super) layers: &'static str,
    pub(super) heads: &'static str,
    pub(super) activation: &'static str,
}

pub(super) const SIZES: Sizes = Sizes {
    hidden: "hidden_size",
    inner: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    activation: "hidden_act",
};

pub(super) fn read(fields: Fields<'_>) -> Result<EncoderConfig> {
    fields.refuse_unless("position_embedding_type", "absolute")?;
    of(fields, &SIZES, &NAMES)
}

/// BERT with the sizes and names of a family, which says itself what else of it is different.
pub(super) fn of(
    fields: Fields<'_>,
    sizes: &Sizes,
    names: &'static TensorNames,
) -> Result<EncoderConfig> {
    let positions = fields.count("max_position_embeddings")?;
    let layers = fields.count(sizes.layers)?;
    Ok(EncoderConfig {
        family: fields.family().to_owned(),
        vocab_size: fields.count("vocab_size")?,
        hidden: fields.count(sizes.hidden)?,
        inner: fields.count(sizes.inner)?,
        layers,
        heads: fields.count(sizes.heads)?,
        epsilon: fields.number("layer_norm_eps")?.unwrap_or(1e-12),
        activation: fields.activation(sizes.activation)?,
        types: fields.whole("type_vocab_size")?.unwrap_or(2),
        learned: Some(Learned { rows: positions, offset: 0, padding: None }),
        rotary: None,
        relative: None,
        pre_norm: false,
        norm_bias: true,
        biases: Biases::ALL,
        windows: all_keys(layers),
        max_positions: positions,
        projected: None,
        names,
    })
}
