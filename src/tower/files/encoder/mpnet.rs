//! MPNet: RoBERTa with numbers by distance added to the scores of every layer, and without token types.

use super::{bert, roberta};
use crate::error::Result;
use crate::tower::files::fields::Fields;
use crate::tower::model::encoder_config::{EncoderConfig, Qkv, Relative, TensorNames, Up};

/// Constants of the reference implementation, whatever the configuration says.
const PADDING: usize = 1;
const RELATIVE: Relative = Relative { buckets: 32, farthest: 128 };

const NAMES: TensorNames = TensorNames {
    prefix: "mpnet.",
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "",
    norm: "embeddings.LayerNorm",
    last_norm: "",
    relative: "encoder.relative_attention_bias",
    layer: "encoder.layer",
    qkv: Qkv::Apart(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
    output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    up: Up::Plain("intermediate.dense"),
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

pub(super) fn read(fields: Fields<'_>) -> Result<EncoderConfig> {
    fields.refuse_unless("relative_attention_num_buckets", RELATIVE.buckets)?;
    let config = roberta::counted_behind(bert::read(fields)?, PADDING)?;
    Ok(EncoderConfig { types: 0, relative: Some(RELATIVE), names: &NAMES, ..config })
}
