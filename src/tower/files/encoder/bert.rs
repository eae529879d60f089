//! BERT: learned positions, token types, a norm behind each half of a layer, biases everywhere.

use serde_json::Value;

use super::fields::Fields;
use crate::error::Result;
use crate::kernel::Window;
use crate::tower::model::encoder_config::{Biases, EncoderConfig, Learned, Qkv, TensorNames, Up};

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

pub(super) fn read(fields: &Fields<'_>) -> Result<EncoderConfig> {
    fields.refuse_unless("position_embedding_type", &[Value::from("absolute")])?;
    let positions = fields.count(&["max_position_embeddings"])?;
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
        types: fields.whole("type_vocab_size")?.unwrap_or(2),
        learned: Some(Learned { rows: positions, offset: 0, padding: None }),
        rotary: None,
        relative: None,
        pre_norm: false,
        norm_bias: true,
        biases: Biases::ALL,
        windows: vec![Window::FULL; layers],
        max_positions: positions,
        projected: None,
        names: &NAMES,
    })
}
