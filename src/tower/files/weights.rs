//! Weight tensors by their Hugging Face names, out of GGUF or safetensors files, as f32.

use candle_core::quantized::{GgmlDType, ggml_file};
use candle_core::{Device, Tensor};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::files::gguf::{Gguf, TensorEntry};
use crate::tower::{DecoderConfig, WeightSource};

/// The error for a tensor whose shape is not the one the model's configuration implies.
pub(crate) fn wrong_shape(name: &str, found: &[usize], wanted: &[usize]) -> Error {
    Error::input(format!(
        "tensor {name} has shape {found:?}, but the model's configuration implies {wanted:?}: weights \
         and configuration do not belong together"
    ))
}

/// The error for a tensor that is not there.
pub(crate) fn missing(name: &str) -> Error {
    Error::input(format!("tensor {name} is missing from the weights"))
}

/// Puts little-endian elements of `N` bytes behind `values`.
pub(crate) fn widen<const N: usize>(
    bytes: &[u8],
    element: impl Fn([u8; N]) -> f32,
    values: &mut Vec<f32>,
) {
    values.extend(bytes.as_chunks().0.iter().map(|bytes| element(*bytes)));
}

pub(crate) fn from_f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

pub(crate) fn from_bf16(bytes: [u8; 2]) -> f32 {
    half::bf16::from_le_bytes(bytes).to_f32()
}

/// Weights of a GGUF file, dequantised one tensor at a time.
pub(crate) struct GgufWeights {
    gguf: Gguf,
    names: Names,
}

/// By which names tensors are asked for.
enum Names {
    /// Hugging Face's of a decoder.
    Decoder {
        /// Query and key heads where their rows are stored in interleaved rotary order.
        interleaved: Option<(usize, usize)>,
        /// Whether a layer has Gemma's four norms.
        four_norms: bool,
    },
    /// The file's own.
    Own,
}

impl GgufWeights {
    /// `llama` files (Mistral's too) keep each head's q and k rows as (0, half, 1, half + 1, ...);
    /// other architectures keep Hugging Face's order.
    pub(crate) fn new(gguf: Gguf, config: &DecoderConfig) -> Self {
        let interleaved = (config.family == "llama").then_some((config.heads, config.kv_heads));
        let four_norms = config.gemma.is_some();
        Self { gguf, names: Names::Decoder { interleaved, four_norms } }
    }

    /// Tensors by the file's own names, as an encoder's configuration has them.
    pub(crate) fn by_own_names(gguf: Gguf) -> Self {
        Self { gguf, names: Names::Own }
    }

    fn stored_name(&self, name: &str) -> Option<String> {
        match self.names {
            Names::Decoder { four_norms, .. } => gguf_name(name, four_norms),
            Names::Own => Some(name.to_owned()),
        }
    }

    /// Looks whether a tensor is there, of this shape.
    ///
    /// # Errors
    /// Input, naming file and tensor.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.find(name, shape).map(drop).context(|| self.gguf.path.display().to_string())
    }

    /// Tensor of the file's own name, dequantised.
    pub(crate) fn raw(gguf: &Gguf, name: &str) -> Result<Tensor> {
        let entry = gguf.tensors.get(name).ok_or_else(|| missing(name))?;
        let mut bytes = vec![0; entry.bytes];
        gguf.file.read_at(entry.start, &mut bytes)?;
        let failed = || format!("reading tensor {name} of {}", gguf.path.display());
        let mut values = Vec::new();
        match entry.dtype {
            GgmlDType::F32 => widen(&bytes, f32::from_le_bytes, &mut values),
            GgmlDType::F16 => widen(&bytes, from_f16, &mut values),
            GgmlDType::BF16 => widen(&bytes, from_bf16, &mut values),
            quantised => {
                let shape = entry.shape.clone();
                return ggml_file::qtensor_from_ggml(quantised, &bytes, shape, &Device::Cpu)
                    .and_then(|tensor| tensor.dequantize(&Device::Cpu))
                    .or_error(ErrorKind::Corrupt, failed);
            }
        }
        Tensor::from_vec(values, entry.shape.as_slice(), &Device::Cpu)
            .or_error(ErrorKind::Corrupt, failed)
    }

    /// Where a tensor is, and its name in the file.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(&TensorEntry, String)> {
        let stored = self.stored_name(name).ok_or_else(|| missing(name))?;
        let entry = self.gguf.tensors.get(&stored).ok_or_else(|| missing(name))?;
        if entry.shape != shape {
            return Err(wrong_shape(name, &entry.shape, shape));
        }
        Ok((entry, stored))
    }

    /// The number of heads whose rows have to be put in order.
    fn interleaved_heads(&self, name: &str) -> Option<usize> {
        let Names::Decoder { interleaved: Some((heads, kv_heads)), .. } = self.names else {
            return None;
        };
        if name.contains(".self_attn.q_proj.") {
            Some(heads)
        } else {
            name.contains(".self_attn.k_proj.").then_some(kv_heads)
        }
    }
}

impl WeightSource for GgufWeights {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (_, stored) = self.find(name, shape)?;
        let tensor = Self::raw(&self.gguf, &stored)?;
        match self.interleaved_heads(name) {
            Some(heads) => unpermute(&tensor, heads),
            None => Ok(tensor),
        }
        .or_error(ErrorKind::Corrupt, || format!("reordering the rotary rows of {name}"))
    }

    fn contains(&self, name: &str) -> bool {
        self.stored_name(name).is_some_and(|stored| self.gguf.tensors.contains_key(&stored))
    }

    fn q8_0(&self, name: &str, shape: &[usize; 2]) -> Result<Option<Vec<u8>>> {
        let (entry, _) = self.find(name, shape)?;
        if entry.dtype != GgmlDType::Q8_0 {
            return Ok(None);
        }
        let mut bytes = vec![0; entry.bytes];
        self.gguf.file.read_at(entry.start, &mut bytes)?;
        Ok(Some(match self.interleaved_heads(name) {
            Some(heads) => unpermute_rows(&bytes, shape[0], heads),
            None => bytes,
        }))
    }
}

/// As [`unpermute`], on the bytes of `rows` rows.
fn unpermute_rows(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let mut restored = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(2 * half * row) {
        for part in 0..2 {
            for at in 0..half {
                restored.extend_from_slice(&head[(2 * at + part) * row..][..row]);
            }
        }
    }
    restored
}

/// `[heads * head_dim, ...]`: row 2j + p of a head goes to row p * head_dim / 2 + j.
fn unpermute(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let shape = tensor.shape().clone();
    let rows = shape.dims()[0];
    let rest = shape.elem_count() / rows.max(1);
    tensor
        .reshape((heads, rows / heads / 2, 2, rest))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape(shape)
}

/// The name under which llama.cpp's converter stores a Hugging Face tensor.
fn gguf_name(name: &str, four_norms: bool) -> Option<String> {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let Some(rest) = name.strip_prefix("layers.") else {
        return match name {
            "embed_tokens.weight" => Some("token_embd.weight".into()),
            "norm.weight" => Some("output_norm.weight".into()),
            "lm_head.weight" => Some("output.weight".into()),
            _ => None,
        };
    };
    let (layer, rest) = rest.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if four_norms => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    matches!(kind, "weight" | "bias").then(|| format!("blk.{layer}.{module}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mapped() {
        let map = |name| gguf_name(name, false).unwrap_or_default();
        let gemma = |part| gguf_name(&format!("model.layers.2.{part}.weight"), true).unwrap();
        assert_eq!(map("model.layers.3.self_attn.q_proj.bias"), "blk.3.attn_q.bias");
        assert_eq!(map("model.norm.weight"), "output_norm.weight");
        assert_eq!(map("model.layers.2.post_attention_layernorm.weight"), "blk.2.ffn_norm.weight");
        assert_eq!(gemma("post_attention_layernorm"), "blk.2.post_attention_norm.weight");
        assert_eq!(gemma("pre_feedforward_layernorm"), "blk.2.ffn_norm.weight");
        assert_eq!(gemma("post_feedforward_layernorm"), "blk.2.post_ffw_norm.weight");
        assert_eq!(map("embed_tokens.weight"), "token_embd.weight");
        assert_eq!(map("model.layers.x.mlp.up_proj.weight"), "");
        assert_eq!(map("model.layers.1.self_attn.rotary_emb.inv_freq"), "");
    }

    #[test]
    fn unpermute_inverts_the_converters_permutation() {
        // The converter: reshape(heads, 2, half, in).swapaxes(1, 2).
        let (heads, half, width) = (3, 4, 5);
        let rows = heads * half * 2;
        let original = Tensor::arange(0f32, (rows * width) as f32, &Device::Cpu)
            .unwrap()
            .reshape((rows, width))
            .unwrap();
        let stored = original
            .reshape((heads, 2, half, width))
            .and_then(|t| t.transpose(1, 2)?.contiguous()?.reshape((rows, width)))
            .unwrap();
        let restored = unpermute(&stored, heads).unwrap();
        let bytes = |t: &Tensor| -> Vec<u8> {
            let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        assert_eq!(unpermute_rows(&bytes(&stored), rows, heads), bytes(&original));
        assert_eq!(restored.to_vec2::<f32>().unwrap(), original.to_vec2::<f32>().unwrap());
        assert_ne!(stored.to_vec2::<f32>().unwrap(), original.to_vec2::<f32>().unwrap());
    }
}
