//! A BERT-family encoder as a differentiable student: packed texts in, projected means out.

use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::attention::{Pack, attention};
use super::decoder::{NamedVar, mean_states};
use super::gelu::biased_gelu;
use super::layer_norm::layer_norm;
use super::least_squares::LeastSquares;
use super::linear::{Weight, frozen_linear, trained_linear};
use super::tensor_error;
use crate::dataset::SplitMix64;
use crate::error::{Error, ErrorKind, Result, ResultExt, kind_of_io};
use crate::types::Cancel;

/// What of a BERT `config.json` decides the arithmetic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BertConfig {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "default_epsilon")]
    pub(super) layer_norm_eps: f64,
    #[serde(default = "default_activation")]
    pub(super) hidden_act: String,
}

fn default_epsilon() -> f64 {
    1e-12
}

fn default_activation() -> String {
    "gelu".into()
}

/// Weight and bias.
type Pair = (Tensor, Tensor);

struct Layer {
    query: Pair,
    key: Pair,
    value: Pair,
    output: Pair,
    output_norm: Pair,
    up: Pair,
    down: Pair,
    norm: Pair,
}

/// The encoder and its projection to the teacher's dimensions.
pub(super) struct Bert {
    pub(super) config: BertConfig,
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: Pair,
    layers: Vec<Layer>,
    /// `[dimensions, hidden]`.
    projection: Var,
    /// The projection was drawn, not loaded: nothing is known about it yet.
    drawn: bool,
    /// Products are of numbers rounded to bf16.
    round: bool,
    device: Device,
}

/// Which layers of a deep encoder a shallower one keeps: spread evenly, the last one always.
pub(super) fn kept_layers(depth: usize, keep: usize) -> Vec<usize> {
    (1..=keep).map(|at| at * depth / keep - 1).collect()
}

impl Bert {
    /// Loads `config.json` and `model.safetensors` of a folder. Keeps `keep` layers; trains everything but the
    /// embedding tables, whose tensors are frozen unless `train_embeddings`. The projection is loaded where the file
    /// has `projection.weight` of the right shape, else drawn with `seed`, until [`Bert::fit_projection`]. `round`: the
    /// layers multiply numbers rounded to bf16.
    pub(super) fn load(
        folder: &Path,
        keep: Option<usize>,
        dimensions: usize,
        train_embeddings: bool,
        seed: u64,
        round: bool,
        device: &Device,
    ) -> Result<(Self, Vec<NamedVar>)> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Error::new(kind_of_io(&e), format!("cannot read {}", path.display())).with_source(e)
        })?;
        let mut config: BertConfig = serde_json::from_str(&text)
            .or_error(ErrorKind::Input, || {
                format!("{} is no BERT configuration", path.display())
            })?;
        if !config.hidden_size.is_multiple_of(config.num_attention_heads.max(1))
            || config.hidden_act != "gelu"
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{}: heads must divide hidden_size and hidden_act be gelu", path.display()),
            ));
        }
        let depth = config.num_hidden_layers;
        let keep = keep.unwrap_or(depth);
        if keep == 0 || keep > depth {
            return Err(Error::config(format!("student.layers must be in 1..={depth}")));
        }
        let weights = folder.join("model.safetensors");
        let file = candle_core::safetensors::load(&weights, &Device::Cpu)
            .map_err(|e| Error::input(format!("cannot read {}: {e}", weights.display())))?;
        let as_f32 = |found: &Tensor| {
            found.to_dtype(DType::F32).and_then(|t| t.to_device(device)).map_err(tensor_error)
        };
        let mut vars = Vec::new();
        let mut tensor =
            |source: &str, target: &str, shape: &[usize], train: bool| -> Result<Tensor> {
                let found = file
                    .get(source)
                    .or_else(|| file.get(&format!("bert.{source}")))
                    .filter(|t| t.dims() == shape)
                    .ok_or_else(|| {
                        Error::input(format!(
                            "{} has no tensor {source} of shape {shape:?}",
                            weights.display()
                        ))
                    })?;
                let found = as_f32(found)?;
                if !train {
                    return Ok(found);
                }
                let var = Var::from_tensor(&found).map_err(tensor_error)?;
                vars.push((target.to_owned(), var.clone()));
                Ok(var.as_tensor().clone())
            };
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mut embedding = |name: &str, rows: usize| {
            let name = format!("embeddings.{name}_embeddings.weight");
            tensor(&name, &name, &[rows, width], train_embeddings)
        };
        let words = embedding("word", config.vocab_size)?;
        let positions = embedding("position", config.max_position_embeddings)?;
        let types = embedding("token_type", 2)?;
        let mut pair = |source: String, target: String, shape: &[usize]| -> Result<Pair> {
            let get = |part: &str| (format!("{source}.{part}"), format!("{target}.{part}"));
            let (from, to) = get("weight");
            let weight = tensor(&from, &to, shape, true)?;
            let (from, to) = get("bias");
            Ok((weight, tensor(&from, &to, &shape[..1], true)?))
        };
        let norm = "embeddings.LayerNorm".to_owned();
        let norm = pair(norm.clone(), norm, &[width])?;
        let mut layers = Vec::with_capacity(keep);
        for (to, from) in kept_layers(depth, keep).into_iter().enumerate() {
            let mut part = |name: &str, shape: &[usize]| {
                let full = |layer: usize| format!("encoder.layer.{layer}.{name}");
                pair(full(from), full(to), shape)
            };
            layers.push(Layer {
                query: part("attention.self.query", &[width, width])?,
                key: part("attention.self.key", &[width, width])?,
                value: part("attention.self.value", &[width, width])?,
                output: part("attention.output.dense", &[width, width])?,
                output_norm: part("attention.output.LayerNorm", &[width])?,
                up: part("intermediate.dense", &[inner, width])?,
                down: part("output.dense", &[width, inner])?,
                norm: part("output.LayerNorm", &[width])?,
            });
        }
        config.num_hidden_layers = keep;
        let name = "projection.weight";
        let shape = [dimensions, width];
        let loaded = file.get(name).filter(|t| t.dims() == shape);
        let drawn = loaded.is_none();
        let projection = match loaded {
            Some(loaded) => Var::from_tensor(&as_f32(loaded)?),
            None => {
                let mut rng = SplitMix64::new(seed ^ 0x5052_4F4A);
                let scale = (width as f64).sqrt().recip();
                let data: Vec<f32> =
                    (0..dimensions * width).map(|_| (rng.normal() * scale) as f32).collect();
                Var::from_vec(data, (dimensions, width), device)
            }
        };
        let projection = projection.map_err(tensor_error)?;
        vars.push((name.to_owned(), projection.clone()));
        let device = device.clone();
        let model = Self {
            config,
            words,
            positions,
            types,
            norm,
            layers,
            projection,
            drawn,
            round,
            device,
        };
        Ok((model, vars))
    }

    /// The tensors that are not trained, by name: an export needs them too.
    pub(super) fn frozen(&self) -> Vec<(String, Tensor)> {
        let tables =
            [("word", &self.words), ("position", &self.positions), ("token_type", &self.types)];
        tables
            .into_iter()
            .filter(|(_, t)| !t.is_variable())
            .map(|(name, t)| (format!("embeddings.{name}_embeddings.weight"), t.clone()))
            .collect()
    }

    /// Puts the projection where it maps the means of these texts closest to `targets` (`[texts, dimensions]`, row by
    /// row), unless it was loaded. `batch` texts are embedded at a time; between two of them it can be cancelled.
    pub(super) fn fit_projection(
        &mut self,
        sequences: &[Vec<u32>],
        targets: &[f32],
        batch: usize,
        cancel: &Cancel,
    ) -> Result<()> {
        if !self.drawn || sequences.is_empty() {
            return Ok(());
        }
        let (width, dimensions) = (self.config.hidden_size, targets.len() / sequences.len());
        let mut fit = LeastSquares::new(width, dimensions);
        let batches = sequences.chunks(batch).zip(targets.chunks(batch * dimensions));
        for (sequences, targets) in batches {
            cancel.check()?;
            let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
            let means = self.means(&sequences)?;
            let sums = || -> CandleResult<[Vec<f32>; 2]> {
                let (x, y) = (
                    means.detach(),
                    Tensor::from_slice(targets, (sequences.len(), dimensions), &self.device)?,
                );
                let turned = x.t()?.contiguous()?;
                Ok([
                    turned.matmul(&x)?.flatten_all()?.to_vec1()?,
                    turned.matmul(&y)?.flatten_all()?.to_vec1()?,
                ])
            };
            let [gram, moment] = sums().map_err(tensor_error)?;
            fit.add(&gram, &moment);
        }
        let weight = Tensor::from_vec(fit.weight()?, (dimensions, width), &self.device);
        weight.and_then(|weight| self.projection.set(&weight)).map_err(tensor_error)
    }

    /// Projected means `[sequences, dimensions]`, not normalised.
    pub(super) fn forward(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        let means = self.means(sequences)?;
        trained_linear(&means, self.projection.as_tensor(), None, false).map_err(tensor_error)
    }

    /// Means of the last states `[sequences, hidden]`.
    fn means(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        let longest = self.config.max_position_embeddings;
        for sequence in sequences {
            if sequence.is_empty() || sequence.len() > longest {
                return Err(Error::input(format!(
                    "a student text must have 1 to {longest} tokens"
                )));
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= self.config.vocab_size) {
                return Err(Error::input(format!(
                    "token {id} is outside the student's vocabulary"
                )));
            }
        }
        self.means_checked(sequences).map_err(tensor_error)
    }

    fn means_checked(&self, sequences: &[&[u32]]) -> CandleResult<Tensor> {
        let epsilon = self.config.layer_norm_eps;
        let lengths: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
        let positions: Vec<u32> = lengths.iter().flat_map(|l| 0..*l as u32).collect();
        let heads = self.config.num_attention_heads;
        let pack = Pack::bidirectional(heads, self.config.hidden_size / heads, lengths);
        let ids = Tensor::new(sequences.concat(), &self.device)?;
        let positions = Tensor::new(positions, &self.device)?;
        let x = self.words.index_select(&ids, 0)?;
        let x = (x + self.positions.index_select(&positions, 0)?)?;
        let x = x.broadcast_add(&self.types.narrow(0, 0, 1)?)?;
        let norm = |x: &Tensor, (w, b): &Pair| layer_norm(x, w, b, epsilon);
        let product = |x: &Tensor, w: &Tensor, b: Option<&Tensor>| match w.is_variable() {
            true => trained_linear(x, w, b, self.round),
            false => {
                let y = frozen_linear(x, &Weight::Tensor(w.clone()))?;
                b.map_or(Ok(y.clone()), |b| y.broadcast_add(b))
            }
        };
        let linear = |x: &Tensor, (w, b): &Pair| product(x, w, Some(b));
        let mut x = norm(&x, &self.norm)?;
        for layer in &self.layers {
            let (q, k) = (linear(&x, &layer.query)?, linear(&x, &layer.key)?);
            let mixed = attention(&q, &k, &linear(&x, &layer.value)?, &pack)?;
            x = norm(&(x + linear(&mixed, &layer.output)?)?, &layer.output_norm)?;
            let (w, b) = &layer.up;
            let inner = biased_gelu(&product(&x, w, None)?, b)?;
            x = norm(&(x + linear(&inner, &layer.down)?)?, &layer.norm)?;
        }
        mean_states(&x, &pack)
    }
}

#[cfg(test)]
mod tests {
    use super::kept_layers;

    #[test]
    fn layers_are_kept_evenly() {
        assert_eq!(kept_layers(6, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept_layers(6, 3), [1, 3, 5]);
        assert_eq!(kept_layers(6, 4), [0, 2, 3, 5]);
        assert_eq!(kept_layers(30, 1), [29]);
    }
}
