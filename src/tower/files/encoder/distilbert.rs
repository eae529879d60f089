//! DistilBERT: BERT without token types, under other names.

use super::bert::{self, Sizes};
use crate::error::Result;
use crate::tower::files::fields::Fields;
use crate::tower::model::encoder_config::{EncoderConfig, Qkv, TensorNames, Up};

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

const SIZES: Sizes = Sizes {
    hidden: "dim",
    inner: "hidden_dim",
    layers: "n_layers",
    heads: "n_heads",
    activation: "activation",
};

pub(super) fn read(fields: Fields<'_>) -> Result<EncoderConfig> {
    // Positions that are sinusoids are stored as embeddings, too.
    Ok(EncoderConfig { epsilon: 1e-12, types: 0, ..bert::of(fields, &SIZES, &NAMES)? })
}
