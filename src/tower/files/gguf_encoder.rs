//! GGUF metadata to [`EncoderConfig`]: BERT and NomicBERT, as llama.cpp's converter writes them.

use crate::error::{Error, Result, ResultExt};
use crate::kernel::Activation;
use crate::tower::files::encoder;
use crate::tower::files::gguf::Gguf;
use crate::tower::files::gguf_keys::Keys;
use crate::tower::model::encoder_config::{
    Biases, EncoderConfig, Learned, Qkv, Rotary, TensorNames, Up, all_keys,
};

/// Architectures, by llama.cpp's names, whose files are read. RoBERTa's and XLM-R's say `bert`, their rows of positions
/// counted from the first that a text has.
pub(crate) const ARCHITECTURES: [&str; 2] = ["bert", "nomic-bert"];

const BERT: TensorNames = TensorNames {
    prefix: "",
    words: "token_embd",
    positions: "position_embd",
    types: "token_types",
    norm: "token_embd_norm",
    last_norm: "",
    relative: "",
    layer: "blk",
    qkv: Qkv::Apart(["attn_q", "attn_k", "attn_v"]),
    output: "attn_output",
    attention_norm: "attn_output_norm",
    up: Up::Plain("ffn_up"),
    down: "ffn_down",
    output_norm: "layer_output_norm",
};
const NOMIC: TensorNames = TensorNames {
    qkv: Qkv::Fused("attn_qkv"),
    up: Up::Gated { gate: "ffn_gate", up: "ffn_up" },
    ..BERT
};

/// The encoder that a GGUF file describes; `None` where its architecture is not an encoder's.
///
/// # Errors
/// Unsupported for what is not computed here; Corrupt for a missing or impossible number.
pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Option<EncoderConfig>> {
    let Some(architecture) = gguf.string("general.architecture")? else { return Ok(None) };
    if !ARCHITECTURES.contains(&architecture) {
        return Ok(None);
    }
    let keys = Keys { gguf, architecture };
    read(keys).map(Some).context(|| format!("{}", gguf.path.display()))
}

fn read(keys: Keys<'_>) -> Result<EncoderConfig> {
    let gguf = keys.gguf;
    let nomic = keys.architecture == "nomic-bert";
    if gguf.bool(&keys.key("attention.causal"))? == Some(true) {
        return Err(Error::unsupported("an encoder with a causal mask is not supported"));
    }
    keys.refuse_experts()?;
    let scaling = keys.key("rope.scaling.type");
    if let Some(kind) = gguf.string(&scaling)?.filter(|kind| *kind != "none") {
        return Err(Error::unsupported(format!("{scaling} = {kind:?} is not supported")));
    }
    let rows = |name: &str| gguf.tensors.get(name).and_then(|tensor| tensor.shape.first()).copied();
    let has = |name: &str| gguf.tensors.contains_key(name);
    let layers = keys.needed("block_count")?;
    let longest = keys.needed("context_length")?;
    let theta = gguf.float(&keys.key("rope.freq_base"))?.unwrap_or(10_000.);
    let table = match nomic {
        true => None,
        false => Some(rows("position_embd.weight").ok_or_else(|| missing("position_embd"))?),
    };
    let config = EncoderConfig {
        family: if nomic { "nomic_bert" } else { "bert" }.to_owned(),
        vocab_size: rows("token_embd.weight").ok_or_else(|| missing("token_embd"))?,
        hidden: keys.needed("embedding_length")?,
        inner: keys.needed("feed_forward_length")?,
        layers,
        heads: keys.needed("attention.head_count")?,
        epsilon: keys.float("attention.layer_norm_epsilon")?,
        // llama.cpp itself approximates BERT's; the models were trained with the function.
        activation: if nomic { Activation::Silu } else { Activation::Gelu },
        types: rows("token_types.weight").unwrap_or(0),
        learned: table.map(|rows| Learned { rows, offset: 0, padding: None }),
        rotary: nomic.then_some(Rotary { theta, local_theta: theta, ntk: 1. }),
        relative: None,
        pre_norm: false,
        norm_bias: true,
        biases: Biases {
            qkv: has(if nomic { "blk.0.attn_qkv.bias" } else { "blk.0.attn_q.bias" }),
            output: has("blk.0.attn_output.bias"),
            up: !nomic && has("blk.0.ffn_up.bias"),
            down: has("blk.0.ffn_down.bias"),
        },
        windows: all_keys(layers),
        max_positions: table.map_or(longest, |rows| rows.min(longest)),
        projected: None,
        names: if nomic { &NOMIC } else { &BERT },
    };
    encoder::check(&config)?;
    Ok(config)
}

fn missing(tensor: &str) -> Error {
    Error::corrupt(format!("it has no {tensor}.weight"))
}
