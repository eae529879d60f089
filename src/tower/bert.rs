//! A BERT-family encoder: what a distilled query tower is, and what ready-made small embedders are.
//!
//! Its configuration is candle-transformers'; its layers are our kernels, because a query of a dozen tokens is over before a
//! product has packed its weights.

use candle_transformers::models::bert::{Config, HiddenAct};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::kernel::{Activation, Isa};
use crate::tower::cpu::{CpuEncoder, EncoderShape};
use crate::tower::files::safetensors::SafetensorsWeights;
use crate::tower::model::layer_weights::floats;
use crate::tower::model::shape::Shape;
use crate::tower::{Encoder, WeightSource};
use crate::types::{Arithmetic, Embeddings, Pooling};

/// Name of the matrix `[dimensions, hidden]` that a distilled student ends in.
const PROJECTION: &str = "projection.weight";
/// Tokens that all threads together have in the layers, at most.
const PASS_TOKENS: usize = 4096;

/// Architecture of an encoder.
#[derive(Debug, Clone)]
pub(crate) struct BertConfig {
    model: Config,
    /// Rows of the projection, if there is one.
    projected: Option<usize>,
}

impl BertConfig {
    /// Whether a `config.json` describes such an encoder.
    pub(crate) fn is(fields: &Map<String, Value>) -> bool {
        fields.get("model_type").and_then(Value::as_str) == Some("bert")
    }

    /// Reads `config.json`; the projection's size is the weights'.
    ///
    /// # Errors
    /// Input for what is missing or contradicts itself, Unsupported for what is not there.
    pub(crate) fn new(fields: &Map<String, Value>, weights: &SafetensorsWeights) -> Result<Self> {
        let mut known = json!({
            "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "type_vocab_size": 2,
            "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        });
        // Both are objects.
        if let Value::Object(known) = &mut known {
            known.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        let model: Config = serde_json::from_value(known).or_error(
            ErrorKind::Unsupported,
            || "it is no BERT configuration that can be computed",
        )?;
        let heads = model.num_attention_heads;
        let sizes = [
            model.hidden_size,
            model.intermediate_size,
            model.num_hidden_layers,
            model.vocab_size,
            model.max_position_embeddings,
            model.type_vocab_size,
        ];
        if heads == 0 || !model.hidden_size.is_multiple_of(heads) || sizes.contains(&0) {
            return Err(Error::input("its sizes must be above 0 and its heads divide hidden_size"));
        }
        let projected = match weights.shape(PROJECTION) {
            None => None,
            Some(&[rows, width]) if rows > 0 && width == model.hidden_size => Some(rows),
            Some(shape) => {
                return Err(Error::input(format!(
                    "{PROJECTION} has shape {shape:?}, but hidden_size is {}",
                    model.hidden_size
                )));
            }
        };
        Ok(Self { model, projected })
    }

    /// Dimensions of its vectors before any cut.
    pub(crate) fn dimensions(&self) -> usize {
        self.projected.unwrap_or(self.model.hidden_size)
    }

    /// Longest sequence in tokens.
    pub(crate) fn max_positions(&self) -> usize {
        self.model.max_position_embeddings
    }

    /// Rows of the word embedding.
    pub(crate) fn vocab_size(&self) -> usize {
        self.model.vocab_size
    }

    /// What of the configuration decides a vector.
    pub(crate) fn canonical(&self) -> Value {
        let model = &self.model;
        json!({
            "vocab_size": model.vocab_size, "hidden_size": model.hidden_size,
            "layers": model.num_hidden_layers, "heads": model.num_attention_heads,
            "intermediate_size": model.intermediate_size, "epsilon": model.layer_norm_eps,
            "activation": format!("{:?}", model.hidden_act), "types": model.type_vocab_size,
            "positions": model.max_position_embeddings, "projection": self.projected,
        })
    }

    /// Elements of its weights, biases and norms left out.
    pub(crate) fn parameters(&self) -> u64 {
        let model = &self.model;
        let layer = 4 * model.hidden_size * model.hidden_size
            + 2 * model.hidden_size * model.intermediate_size;
        let tables = (model.vocab_size + model.max_position_embeddings) * model.hidden_size;
        (model.num_hidden_layers * layer + tables) as u64
    }

    /// Bytes of the loaded weights and of the activations of `tokens` tokens.
    pub(crate) fn memory(&self, tokens: usize) -> u64 {
        let model = &self.model;
        let activations =
            tokens.min(PASS_TOKENS) * (8 * model.hidden_size + 2 * model.intermediate_size);
        4 * (self.parameters() + activations as u64)
    }
}

/// A loaded encoder on the processor.
pub(crate) struct BertEncoder {
    model: CpuEncoder,
    vectors: Shape,
    max_positions: usize,
    vocabulary: usize,
}

impl BertEncoder {
    /// Loads the weights. `vectors` says what becomes of a pooled state; `threads` 0: all of the machine.
    ///
    /// # Errors
    /// Input where a tensor is missing or of another shape; Unsupported for f16.
    pub(crate) fn load(
        config: &BertConfig,
        weights: &SafetensorsWeights,
        pooling: Pooling,
        vectors: Shape,
        threads: usize,
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let stored = |name: &str| {
            let prefixed = format!("bert.{name}");
            if weights.contains(&prefixed) { prefixed } else { name.to_owned() }
        };
        let read = |name: &str, shape: &[usize]| floats(weights, &stored(name), shape);
        let model = &config.model;
        let shape = EncoderShape {
            hidden: model.hidden_size,
            inner: model.intermediate_size,
            heads: model.num_attention_heads,
            layers: model.num_hidden_layers,
            epsilon: model.layer_norm_eps as f32,
            activation: match model.hidden_act {
                HiddenAct::Gelu => Activation::Gelu,
                HiddenAct::GeluApproximate => Activation::GeluTanh,
                HiddenAct::Relu => Activation::Relu,
            },
            pooling,
            projected: config.projected,
        };
        let tables = (model.vocab_size, model.max_position_embeddings, model.type_vocab_size);
        Ok(Self {
            model: CpuEncoder::load(shape, tables, &read, threads, Isa::best(), arithmetic)?,
            vectors,
            max_positions: config.max_positions(),
            vocabulary: config.vocab_size(),
        })
    }
}

impl Encoder for BertEncoder {
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings> {
        for sequence in sequences {
            if sequence.is_empty() || sequence.len() > self.max_positions {
                return Err(Error::input(format!(
                    "a text of {} tokens, where the encoder takes 1 to {}",
                    sequence.len(),
                    self.max_positions
                )));
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= self.vocabulary) {
                return Err(Error::input(format!(
                    "token {id}, where the encoder knows {}",
                    self.vocabulary
                )));
            }
        }
        Ok(self.vectors.vectors(&self.model.run(sequences)))
    }
}
