//! A BERT-family encoder: what a distilled query tower is, and what ready-made small embedders are.
//!
//! The layers are candle-transformers'. Texts of equal length run together, so there is no padding and no mask, and
//! a text's vector hardly depends on its neighbours.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::pool::normalize;
use crate::tower::safetensors::SafetensorsWeights;
use crate::tower::{Encoder, WeightSource};
use crate::types::Embeddings;

/// Name of the matrix `[dimensions, hidden]` that a distilled student ends in.
const PROJECTION: &str = "projection.weight";
/// Tokens of one pass through the layers.
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

    /// Bytes of the loaded weights and of the activations of `tokens` tokens.
    pub(crate) fn memory(&self, tokens: usize) -> u64 {
        let model = &self.model;
        let layer = 4 * model.hidden_size * model.hidden_size
            + 2 * model.hidden_size * model.intermediate_size;
        let tables = (model.vocab_size + model.max_position_embeddings) * model.hidden_size;
        let weights = model.num_hidden_layers * layer + tables;
        let activations =
            tokens.min(PASS_TOKENS) * (8 * model.hidden_size + 2 * model.intermediate_size);
        4 * (weights + activations) as u64
    }

    /// Every tensor and its shape. Checked before anything is read.
    fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let Config { hidden_size: width, intermediate_size: inner, .. } = self.model;
        let mut all = BTreeMap::new();
        for (table, rows) in [
            ("word", self.model.vocab_size),
            ("position", self.model.max_position_embeddings),
            ("token_type", self.model.type_vocab_size),
        ] {
            all.insert(format!("embeddings.{table}_embeddings.weight"), vec![rows, width]);
        }
        let mut pair = |name: String, shape: Vec<usize>| {
            all.insert(format!("{name}.bias"), shape[..1].to_vec());
            all.insert(format!("{name}.weight"), shape);
        };
        pair("embeddings.LayerNorm".to_owned(), vec![width]);
        for layer in 0..self.model.num_hidden_layers {
            for (part, shape) in [
                ("attention.self.query", vec![width, width]),
                ("attention.self.key", vec![width, width]),
                ("attention.self.value", vec![width, width]),
                ("attention.output.dense", vec![width, width]),
                ("attention.output.LayerNorm", vec![width]),
                ("intermediate.dense", vec![inner, width]),
                ("output.dense", vec![width, inner]),
                ("output.LayerNorm", vec![width]),
            ] {
                pair(format!("encoder.layer.{layer}.{part}"), shape);
            }
        }
        if let Some(rows) = self.projected {
            all.insert(PROJECTION.to_owned(), vec![rows, width]);
        }
        all
    }
}

/// A loaded encoder on the processor.
pub(crate) struct BertEncoder {
    model: BertModel,
    /// `[dimensions, hidden]`.
    projection: Option<Tensor>,
    dimensions: usize,
    normalize: bool,
    max_positions: usize,
}

impl BertEncoder {
    /// Loads the weights. Vectors keep their first `dimensions` elements.
    ///
    /// # Errors
    /// Input where a tensor is missing or of another shape.
    pub(crate) fn load(
        config: &BertConfig,
        weights: &SafetensorsWeights,
        dimensions: usize,
        normalize: bool,
    ) -> Result<Self> {
        let mut tensors = HashMap::new();
        for (name, shape) in config.tensors() {
            let stored = format!("bert.{name}");
            let stored = if weights.contains(&stored) { &stored } else { &name };
            let tensor = weights.tensor(stored, &shape)?;
            tensors.insert(name, tensor);
        }
        let projection = tensors.remove(PROJECTION);
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let model = BertModel::load(builder, &config.model).context(|| "loading the encoder")?;
        Ok(Self { model, projection, dimensions, normalize, max_positions: config.max_positions() })
    }

    /// Projected means of sequences of one length, `[sequences, dimensions before the cut]`.
    fn forward(&self, ids: &[u32], length: usize) -> CandleResult<Vec<Vec<f32>>> {
        let ids = Tensor::from_slice(ids, (ids.len() / length, length), &Device::Cpu)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let means = states.mean(1)?;
        match &self.projection {
            None => means.to_vec2(),
            Some(projection) => means.matmul(&projection.t()?)?.to_vec2(),
        }
    }
}

impl Encoder for BertEncoder {
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, sequence) in sequences.iter().enumerate() {
            if sequence.is_empty() || sequence.len() > self.max_positions {
                return Err(Error::input(format!(
                    "a text of {} tokens, where the encoder takes 1 to {}",
                    sequence.len(),
                    self.max_positions
                )));
            }
            by_length.entry(sequence.len()).or_default().push(at);
        }
        let mut data = vec![0f32; sequences.len() * self.dimensions];
        for (length, members) in by_length {
            for pass in members.chunks((PASS_TOKENS / length).max(1)) {
                let ids: Vec<u32> = pass.iter().flat_map(|at| sequences[*at]).copied().collect();
                let rows = self.forward(&ids, length).context(|| "encoding with the encoder")?;
                for (at, row) in pass.iter().zip(rows) {
                    let to = &mut data[at * self.dimensions..(at + 1) * self.dimensions];
                    to.copy_from_slice(&row[..self.dimensions]);
                    if self.normalize {
                        normalize(to);
                    }
                }
            }
        }
        Embeddings::from_vec(self.dimensions, data)
    }
}
