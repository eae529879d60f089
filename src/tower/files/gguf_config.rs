//! GGUF metadata to [`DecoderConfig`].

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::files::config::check;
use crate::tower::files::gguf::{Gguf, Value};
use crate::tower::files::gguf_encoder::ARCHITECTURES as ENCODERS;
use crate::tower::files::gguf_keys::Keys;
use crate::tower::files::sentence::Said;
use crate::tower::files::weights::GgufWeights;
use crate::tower::{DecoderConfig, Gemma, Sliding};
use crate::types::Pooling;

/// Architectures of decoders, by llama.cpp's names, whose files are read. Mistral's say `llama`; `llama-embed` is
/// NVIDIA's Llama without a causal mask, `gemma-embedding` EmbeddingGemma.
pub(crate) const ARCHITECTURES: [&str; 6] =
    ["llama", "llama-embed", "qwen2", "qwen3", "gemma3", "gemma-embedding"];
/// What llama.cpp takes where a Gemma's file does not say it: base of sliding layers, and one layer in how many is a
/// full one.
const SLIDING_THETA: f64 = 10_000.0;
const PATTERN: usize = 6;
/// Layers of the one Gemma 3 (27B) whose scores are not divided by the root of the head's width.
const LARGEST_GEMMA: usize = 62;

/// The decoder that a GGUF file describes.
///
/// # Errors
/// Unsupported for another architecture or RoPE scaling; Corrupt for a missing or impossible number.
pub(crate) fn from_gguf(gguf: &Gguf) -> Result<DecoderConfig> {
    read(gguf).context(|| format!("{}", gguf.path.display()))
}

/// How the file says that token states are pooled; `None` where it says nothing.
///
/// # Errors
/// Unsupported for a way that gives no vector (a reranker's).
pub(crate) fn pooling(gguf: &Gguf) -> Result<Option<Said<Pooling>>> {
    let Some(family) = gguf.string("general.architecture")? else { return Ok(None) };
    let key = format!("{family}.pooling_type");
    // llama.cpp's `llama_pooling_type`.
    let value = match gguf.integer(&key)? {
        None | Some(0) => return Ok(None),
        Some(1) => Pooling::Mean,
        Some(2) => Pooling::Cls,
        Some(3) => Pooling::LastToken,
        Some(other) => {
            return Err(Error::unsupported(format!(
                "{key} = {other} of {} gives no vector of a text; set `pooling` yourself if the model is an embedder",
                gguf.path.display()
            )));
        }
    };
    Ok(Some(Said { value, by: key }))
}

fn read(gguf: &Gguf) -> Result<DecoderConfig> {
    let architecture = gguf
        .string("general.architecture")?
        .ok_or_else(|| Error::corrupt("it has no general.architecture"))?;
    if !ARCHITECTURES.contains(&architecture) {
        let known: Vec<&str> = ARCHITECTURES.into_iter().chain(ENCODERS).collect();
        return Err(Error::unsupported(format!(
            "GGUF files of the architecture {architecture:?} are not supported ({} are)",
            known.join(", ")
        )));
    }
    let gemma = matches!(architecture, "gemma3" | "gemma-embedding");
    let family = match architecture {
        "llama-embed" => "llama",
        _ if gemma => "gemma3_text",
        other => other,
    };
    let keys = Keys { gguf, architecture };
    let key = |name: &str| keys.key(name);
    let (optional, needed) = (|name| keys.optional(name), |name| keys.needed(name));
    let hidden_size = needed("embedding_length")?;
    let heads = needed("attention.head_count")?;
    let head_dim = match optional("attention.key_length")? {
        Some(width) => width,
        None => hidden_size / heads,
    };
    if optional("attention.value_length")?.is_some_and(|width| width != head_dim) {
        return Err(Error::unsupported("keys and values of different width are not supported"));
    }
    if optional("rope.dimension_count")?.is_some_and(|width| width != head_dim) {
        return Err(Error::unsupported("RoPE over a part of each head is not supported"));
    }
    keys.refuse_experts()?;
    // llama.cpp knows these two not to be, whether the file says so or not.
    let around = matches!(architecture, "llama-embed" | "gemma-embedding");
    let causal = gguf.bool(&key("attention.causal"))?.unwrap_or(!around);
    if gguf.float(&key("attn_logit_softcapping"))?.is_some_and(|cap| cap != 0.0) {
        return Err(Error::unsupported("soft-capped attention scores are not supported"));
    }
    let embedding = gguf
        .tensors
        .get("token_embd.weight")
        .ok_or_else(|| Error::corrupt("it has no token_embd.weight"))?;
    let mut max_positions = needed("context_length")?;
    let layers = needed("block_count")?;
    let window = optional("attention.sliding_window")?;
    let sliding = match window {
        Some(window) if gemma => Some(Sliding {
            // llama.cpp halves the window of EmbeddingGemma, to either side.
            before: if causal { window - 1 } else { window / 2 },
            after: if causal { 0 } else { window / 2 },
            layers: sliding_layers(gguf, &key("attention.sliding_window_pattern"), layers)?,
            rope_theta: Some(gguf.float(&key("rope.freq_base_swa"))?.unwrap_or(SLIDING_THETA)),
        }),
        // The file does not say which layers it is for; within the window that makes no difference.
        Some(window) => {
            max_positions = max_positions.min(window);
            None
        }
        None => None,
    };
    let query_scalar = match architecture {
        "gemma3" if layers == LARGEST_GEMMA => hidden_size as f64 / heads as f64,
        _ => head_dim as f64,
    };
    let config = DecoderConfig {
        vocab_size: embedding.shape[0],
        hidden_size,
        intermediate_size: needed("feed_forward_length")?,
        layers,
        heads,
        kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: keys.float("attention.layer_norm_rms_epsilon")?,
        rope_theta: gguf.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_factors: None,
        rope_scale: 1.0,
        qkv_bias: gguf.tensors.contains_key("blk.0.attn_q.bias"),
        qk_norm: gguf.tensors.contains_key("blk.0.attn_q_norm.weight"),
        max_positions,
        causal,
        sliding,
        gemma: gemma.then_some(Gemma { query_scalar, norms_from_one: false }),
        family: family.to_owned(),
    };
    check(&config)?;
    if gguf.tensors.contains_key("blk.0.attn_output.bias") {
        return Err(Error::unsupported("a bias on the attention's output is not supported"));
    }
    let rope_factors = rope_factors(gguf, architecture, &config)?;
    Ok(DecoderConfig { rope_factors, ..config })
}

/// Which layers slide: all but the last of every so many, or as listed.
fn sliding_layers(gguf: &Gguf, key: &str, layers: usize) -> Result<Vec<bool>> {
    let every = |period: usize| -> Vec<bool> {
        (0..layers).map(|layer| !(layer + 1).is_multiple_of(period)).collect()
    };
    match gguf.metadata.get(key) {
        None => Ok(every(PATTERN)),
        Some(Value::Integer(period)) if *period > 0 => Ok(every(*period as usize)),
        Some(Value::Bools(listed)) if listed.len() >= layers => Ok(listed[..layers].to_vec()),
        Some(Value::Integers(listed)) if listed.len() >= layers => {
            Ok(listed[..layers].iter().map(|one| *one != 0).collect())
        }
        Some(_) => Err(gguf.wrong(key, "a period or a list of all layers")),
    }
}

fn rope_factors(
    gguf: &Gguf,
    architecture: &str,
    config: &DecoderConfig,
) -> Result<Option<Vec<f32>>> {
    let pairs = config.head_dim / 2;
    // Llama 3.1 and later: the converter writes the divisors out.
    if let Some(entry) = gguf.tensors.get("rope_freqs.weight") {
        if entry.shape != [pairs] {
            return Err(Error::corrupt("rope_freqs.weight does not fit the head width"));
        }
        let factors = GgufWeights::raw(gguf, "rope_freqs.weight")?
            .to_vec1::<f32>()
            .or_error(ErrorKind::Corrupt, || "rope_freqs.weight cannot be read")?;
        if !factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
            return Err(Error::corrupt("rope_freqs.weight holds impossible divisors"));
        }
        return Ok(Some(factors));
    }
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    match gguf.string(&key("type"))? {
        None | Some("none") => Ok(None),
        Some("linear") => match gguf.float(&key("factor"))? {
            Some(factor) if factor.is_finite() && factor > 0.0 => {
                Ok(Some(vec![factor as f32; pairs]))
            }
            _ => Err(Error::corrupt("linear RoPE scaling has no positive factor")),
        },
        Some(other) => Err(Error::unsupported(format!(
            "RoPE scaling of type {other:?} is not supported (none, linear and llama3 are)"
        ))),
    }
}
