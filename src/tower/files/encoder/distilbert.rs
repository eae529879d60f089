//! DistilBERT: BERT without token types, under other names.

use super::fields::Fields;
use crate::error::Result;
use crate::kernel::Window;
use crate::tower::model::encoder_config::{Biases, EncoderConfig, Learned, Qkv, TensorNames, Up};

const NAMES: TensorNames = TensorNames {
    prefix: "distilbert.",
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "",
    norm: "embeddings.LayerNorm",
    last_norm: "",
    relative: "",
    layer: "transformer.layer",
    qkv: Qkv::Apart(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: Up::Plain("ffn.lin1"),
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
};

pub(super) fn read(fields: &Fields<'_>) -> Result<EncoderConfig> {
    let positions = fields.count(&["max_position_embeddings"])?;
    let layers = fields.count(&["n_layers"])?;
    Ok(EncoderConfig {
        family: fields.family.to_owned(),
        vocab_size: fields.count(&["vocab_size"])?,
        hidden: fields.count(&["dim"])?,
        inner: fields.count(&["hidden_dim"])?,
        layers,
        heads: fields.count(&["n_heads"])?,
        epsilon: 1e-12,
        activation: fields.activation("activation")?,
        types: 0,
        // Sinusoids, too, are stored as embeddings.
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
