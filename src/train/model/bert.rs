//! A BERT-family encoder as a differentiable student: packed texts in, projected means out.

mod gradients;

pub(crate) use gradients::{Learnt, PartLoss};

use std::path::Path;

use candle_core::{Device, Result as CandleResult, Tensor, Var};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decoder::NamedVar;
use super::encoder::{self, Encoder, MATRICES, Tape, groups, mean_rows};
use super::least_squares;
use super::projection::{self, PROJECTION};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::kernel::{Norm, add_to};
use crate::tower::SafetensorsFile;
use crate::train::autograd::attention::Pack;
use crate::train::autograd::linear::Weight;
use crate::train::autograd::ops::{with_all, with_values};
use crate::train::files::read_small;
use crate::train::tensors::tensor_error;
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
    /// What we wrote about a student.
    #[serde(default, skip_serializing)]
    pub(super) scalingnote: Option<Value>,
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
    /// Query, key, value, output, up, down.
    linear: [Pair; MATRICES],
    /// Behind the attention and behind the rest.
    norms: [Pair; 2],
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
    /// Loads `config.json` and `model.safetensors` of a folder, packed ones too. Keeps `keep` layers; trains everything
    /// but the embedding tables, whose tensors are frozen unless `train_embeddings`. The projection is loaded where the
    /// file has `projection.weight` of the right shape, else drawn with `seed`, until [`Bert::fit_projection`].
    /// `round`: the layers multiply numbers rounded to bf16.
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
        let mut config: BertConfig = serde_json::from_slice(&read_small(&path)?)
            .or_error(ErrorKind::Input, || {
                format!("{} is not a BERT configuration", path.display())
            })?;
        if !config.hidden_size.is_multiple_of(config.num_attention_heads.max(1))
            || config.hidden_act != "gelu"
        {
            return Err(Error::unsupported(format!(
                "{}: heads must divide hidden_size and hidden_act be gelu",
                path.display()
            )));
        }
        let depth = config.num_hidden_layers;
        let keep = keep.unwrap_or(depth);
        if keep == 0 || keep > depth {
            return Err(Error::config(format!("student.layers must be in 1..={depth}")));
        }
        let file = SafetensorsFile::open(&folder.join("model.safetensors"))?;
        let read = |name: &str| -> Result<Tensor> {
            file.read(name)?.to_device(device).map_err(tensor_error)
        };
        let mut vars = Vec::new();
        let mut tensor =
            |source: &str, target: &str, shape: &[usize], train: bool| -> Result<Tensor> {
                let names = [source.to_owned(), format!("bert.{source}")];
                let name = names.iter().find(|name| file.shape(name) == Some(shape));
                let name = name.ok_or_else(|| {
                    Error::input(format!(
                        "{}/model.safetensors has no tensor {source} of shape {shape:?}",
                        folder.display()
                    ))
                })?;
                let found = read(name)?;
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
            let [query, key, value] = ["query", "key", "value"]
                .map(|name| part(&format!("attention.self.{name}"), &[width, width]));
            let output = part("attention.output.dense", &[width, width])?;
            let attended = part("attention.output.LayerNorm", &[width])?;
            let up = part("intermediate.dense", &[inner, width])?;
            let down = part("output.dense", &[width, inner])?;
            layers.push(Layer {
                linear: [query?, key?, value?, output, up, down],
                norms: [attended, part("output.LayerNorm", &[width])?],
            });
        }
        config.num_hidden_layers = keep;
        let drawn = file.shape(PROJECTION) != Some(&[dimensions, width]);
        let projection = match drawn {
            false => Var::from_tensor(&read(PROJECTION)?),
            true => projection::drawn(dimensions, width, seed, device),
        };
        let projection = projection.map_err(tensor_error)?;
        vars.push((PROJECTION.to_owned(), projection.clone()));
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
    /// row). One that was loaded stays, or with `refit` moves no farther than the texts say. `batch` texts are embedded
    /// at a time; between two of them it can be cancelled.
    pub(super) fn fit_projection(
        &self,
        sequences: &[Vec<u32>],
        targets: &[f32],
        batch: usize,
        refit: bool,
        cancel: &Cancel,
    ) -> Result<()> {
        if !(self.drawn || refit) {
            return Ok(());
        }
        let old =
            (!self.drawn).then(|| with_values(&self.projection, |values| Ok(values.to_vec())));
        let old = old.transpose().map_err(tensor_error)?;
        let encoder = self.encoder().map_err(tensor_error)?;
        let states = |sequences: &[&[u32]]| {
            self.check(sequences)?;
            self.means(&encoder, sequences).map_err(tensor_error)
        };
        let (width, old) = (self.config.hidden_size, old.as_deref());
        let weight = least_squares::fit(width, sequences, targets, batch, old, cancel, states)?;
        let weight = Tensor::from_vec(weight, self.projection.shape(), &self.device);
        weight.and_then(|weight| self.projection.set(&weight)).map_err(tensor_error)
    }

    /// Projected means `[sequences, dimensions]`, not normalised.
    pub(super) fn forward(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        self.check(sequences)?;
        let project = || self.means(&self.encoder()?, sequences)?.matmul(&self.projection.t()?);
        project().map_err(tensor_error)
    }

    fn check(&self, sequences: &[&[u32]]) -> Result<()> {
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
        Ok(())
    }

    fn pack(&self, sequences: &[&[u32]]) -> Pack {
        let heads = self.config.num_attention_heads;
        let lengths = sequences.iter().map(|s| s.len()).collect();
        Pack::bidirectional(heads, self.config.hidden_size / heads, lengths)
    }

    /// The layers with the parameters that they have now.
    fn encoder(&self) -> CandleResult<Encoder> {
        let numbers = |tensor: &Tensor| with_values(tensor, |values| Ok(values.to_vec()));
        let norm = |(weight, bias): &Pair| -> CandleResult<Norm> {
            Ok(Norm { weight: numbers(weight)?, bias: numbers(bias)? })
        };
        let weight = |(weight, _): &Pair| match self.round {
            true => Weight::pack(weight),
            false => Ok(Weight::Tensor(weight.clone())),
        };
        let layer = |layer: &Layer| -> CandleResult<encoder::Layer> {
            Ok(encoder::Layer {
                weights: all(layer.linear.each_ref().map(weight))?,
                biases: all(layer.linear.each_ref().map(|(_, bias)| numbers(bias)))?,
                norms: all(layer.norms.each_ref().map(norm))?,
            })
        };
        Ok(Encoder {
            width: self.config.hidden_size,
            inner: self.config.intermediate_size,
            epsilon: self.config.layer_norm_eps as f32,
            norm: norm(&self.norm)?,
            layers: self.layers.iter().map(layer).collect::<CandleResult<_>>()?,
        })
    }

    /// The sums of the embeddings of all tokens, `[tokens, hidden]`.
    fn embed(&self, sequences: &[&[u32]], to: &mut Vec<f32>) -> CandleResult<()> {
        let width = self.config.hidden_size;
        with_all([&self.words, &self.positions, &self.types], |[words, positions, types]| {
            to.clear();
            for sequence in sequences {
                for (id, position) in sequence.iter().zip(positions.chunks_exact(width)) {
                    let start = to.len();
                    to.extend_from_slice(&words[*id as usize * width..][..width]);
                    add_to(&mut to[start..], position);
                    add_to(&mut to[start..], types);
                }
            }
            Ok(())
        })
    }

    /// Means of the last states `[sequences, hidden]`.
    fn means(&self, encoder: &Encoder, sequences: &[&[u32]]) -> CandleResult<Tensor> {
        let width = self.config.hidden_size;
        let (mut tape, mut means) = (Tape::default(), Vec::new());
        for range in groups(sequences, 1) {
            let group = &sequences[range];
            let pack = self.pack(group);
            self.embed(group, &mut tape.embedded)?;
            means.extend(mean_rows(encoder.forward(&pack, &mut tape)?, &pack, width));
        }
        Tensor::from_vec(means, (sequences.len(), width), &self.device)
    }
}

/// The results of an array, or the first error.
fn all<T, const N: usize>(results: [CandleResult<T>; N]) -> CandleResult<[T; N]> {
    let values = results.into_iter().collect::<CandleResult<Vec<T>>>()?;
    values.try_into().map_err(|_| candle_core::Error::Msg("as many as there were".into()))
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
