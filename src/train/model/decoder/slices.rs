//! The decoder on the processor: groups of sequences that stay in the caches, worked off by the threads of the pool.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result as CandleResult, Tensor, bail};
use rayon::prelude::*;

use super::{Decoder, Memory};
use crate::kernel::add_to;
use crate::train::autograd::attention::Pack;
use crate::train::autograd::linear::Weight;
use crate::train::autograd::ops::with_values;
use crate::train::gradients::Gradients;
use crate::train::model::adapter::{AdapterView, LoraTarget};
use crate::train::model::encoder::groups;
use crate::train::model::layers::{Layer, Layers, Lora, Projection, Sums, Tape, Values};

/// Keeps a vector's length above zero, as [`super::normalize`] does.
const LENGTH: f32 = 1e-24;

/// Tapes between steps: their buffers are large, and fresh memory is slow.
#[derive(Default)]
pub(super) struct Spare(Mutex<Vec<Tape>>);

impl Spare {
    fn take(&self) -> Tape {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, tape: Tape) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(tape);
    }
}

/// What was embedded, for the backward pass.
pub(crate) struct Embedded {
    layers: Arc<Layers>,
    groups: Vec<Group>,
}

struct Group {
    range: Range<usize>,
    pack: Pack,
    /// States before the first layer that learns, `[tokens, hidden]`.
    lower: Vec<f32>,
    tape: Option<Tape>,
    /// `[sequences, hidden]`
    pooled: Vec<f32>,
}

impl Decoder {
    /// Vectors of sequences, and what the backward pass needs: with `keep` all of it, else the states below what
    /// learns.
    pub(super) fn embed_slices(
        &self,
        sequences: &[&[u32]],
        adapter: Option<&AdapterView>,
        keep: bool,
    ) -> CandleResult<(Tensor, Memory)> {
        let layers = Arc::new(self.layers_of_a_step(adapter)?);
        let groups = groups(sequences, rayon::current_num_threads());
        // Inside the pool: the hundreds of small parallel loops of a step then need not wake it each.
        let groups = rayon::scope(|_| {
            let embed = |range| self.embed_group(&layers, sequences, range, keep);
            groups.into_par_iter().map(embed).collect::<CandleResult<Vec<_>>>()
        })?;
        let width = self.dimensions.unwrap_or(layers.width);
        let mut vectors = Vec::with_capacity(sequences.len() * width);
        for row in groups.iter().flat_map(|group| group.pooled.chunks_exact(layers.width)) {
            let length = length(&row[..width]);
            vectors.extend(row[..width].iter().map(|value| value / length));
        }
        let vectors = Tensor::from_vec(vectors, (sequences.len(), width), &self.device)?;
        Ok((vectors, Memory::Slices(Embedded { layers, groups })))
    }

    fn embed_group(
        &self,
        layers: &Layers,
        sequences: &[&[u32]],
        range: Range<usize>,
        keep: bool,
    ) -> CandleResult<Group> {
        let sequences = &sequences[range.clone()];
        let pack = Pack::new(
            &self.config,
            self.config.window(0),
            sequences.iter().map(|s| s.len()).collect(),
        );
        let mut x = Vec::with_capacity(pack.total() * layers.width);
        with_values(&self.embeddings, |table| {
            for id in sequences.iter().copied().flatten() {
                x.extend_from_slice(&table[*id as usize * layers.width..][..layers.width]);
            }
            Ok(())
        })?;
        let mut tape = self.spare.take();
        let lower = layers.lower(&pack, x, &mut tape)?;
        let pooled = layers.pooled(&pack, &lower, keep, &mut tape)?;
        let mut group = Group { range, pack, lower, tape: None, pooled };
        match keep {
            true => {
                group.tape = Some(tape);
                group.lower = Vec::new();
            }
            false => self.spare.give(tape),
        }
        Ok(group)
    }

    /// Adds what the parameters learn from the gradient of the vectors, `[sequences, dimensions]`.
    pub(super) fn backward_slices(
        &self,
        embedded: Embedded,
        sequences: &[&[u32]],
        adapter: Option<&AdapterView>,
        upstream: &Tensor,
        grads: &mut Gradients,
    ) -> CandleResult<()> {
        let Embedded { layers, mut groups } = embedded;
        let dimensions = self.dimensions.unwrap_or(layers.width);
        // Every thread sums up for itself, and the sums are added in order.
        let share = groups.len().div_ceil(rayon::current_num_threads()).max(1);
        let sums = with_values(upstream, |upstream| {
            rayon::scope(|_| {
                let some = |groups: &mut [Group]| {
                    let mut sums = layers.sums();
                    for group in groups {
                        let g = &upstream[group.range.start * dimensions..];
                        self.backward_group(&layers, group, g, dimensions, &mut sums)?;
                    }
                    Ok(sums)
                };
                groups.par_chunks_mut(share).map(some).collect::<CandleResult<Vec<Sums>>>()
            })
        })?;
        let Some(sums) = sums.into_iter().reduce(Sums::add) else { return Ok(()) };
        self.give_out(sums, &layers, adapter, sequences, grads)
    }

    fn backward_group(
        &self,
        layers: &Layers,
        group: &mut Group,
        upstream: &[f32],
        dimensions: usize,
        sums: &mut Sums,
    ) -> CandleResult<()> {
        let mut tape = match group.tape.take() {
            Some(tape) => tape,
            None => {
                let mut tape = self.spare.take();
                layers.pooled(&group.pack, &group.lower, true, &mut tape)?;
                tape
            }
        };
        // Through the cut and the division by the length.
        let mut dpooled = vec![0.0; group.pooled.len()];
        let rows = group.pooled.chunks_exact(layers.width).zip(upstream.chunks_exact(dimensions));
        for (dpooled, (row, g)) in dpooled.chunks_exact_mut(layers.width).zip(rows) {
            let length = length(&row[..dimensions]);
            let along: f32 = row.iter().zip(g).map(|(x, g)| x / length * g).sum();
            for ((d, x), g) in dpooled.iter_mut().zip(row).zip(g) {
                *d = (g - x / length * along) / length;
            }
        }
        layers.backward(&group.pack, &mut tape, &dpooled, sums)?;
        self.spare.give(tape);
        Ok(())
    }

    /// The layers with the parameters as they are now.
    fn layers_of_a_step(&self, adapter: Option<&AdapterView>) -> CandleResult<Layers> {
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut first = None;
        for (number, layer) in self.layers.iter().enumerate() {
            let mut learns = layer.input_norm.is_variable();
            let mut projections = Vec::with_capacity(LoraTarget::ALL.len());
            for target in LoraTarget::ALL {
                let weight = &layer.projections[target as usize];
                let lora =
                    match adapter.and_then(|a| a.pairs.get(&(number, target)).map(|p| (a, p))) {
                        None => None,
                        Some((view, (a, b))) => {
                            let (rank, scale) = (a.dim(0)?, view.scale as f32);
                            let (a, b) = (Values::of(a)?.numbers, Values::of(b)?.numbers);
                            Some(Lora::new(a, b, rank, scale, weight))
                        }
                    };
                learns |= lora.is_some();
                let bias = layer.biases.as_ref().and_then(|all| all.get(target as usize));
                projections.push(Projection {
                    shape: weight.shape()?,
                    learns: weight.is_variable(),
                    lora,
                    bias: bias.map(Values::of).transpose()?,
                    weight: match weight {
                        Weight::Tensor(tensor) if self.packed => Weight::pack(tensor)?,
                        _ => weight.clone(),
                    },
                });
            }
            if learns && first.is_none() {
                first = Some(number);
            }
            let Ok(projections) = projections.try_into() else { bail!("seven projections") };
            let head_norms = match &layer.head_norms {
                Some([q, k]) => Some([Values::of(q)?, Values::of(k)?]),
                None => None,
            };
            layers.push(Layer {
                input_norm: Values::of(&layer.input_norm)?,
                post_norm: Values::of(&layer.post_norm)?,
                projections,
                head_norms,
                window: self.config.window(number),
            });
        }
        Ok(Layers {
            width: self.config.hidden_size,
            epsilon: self.config.rms_norm_eps as f32,
            first: first.unwrap_or(layers.len().saturating_sub(1)),
            layers,
            norm: Values::of(&self.norm)?,
            pooling: self.pooling,
            embeddings_learn: self.embeddings.is_variable(),
        })
    }

    /// Puts sums where their parameters are.
    fn give_out(
        &self,
        sums: Sums,
        layers: &Layers,
        adapter: Option<&AdapterView>,
        sequences: &[&[u32]],
        grads: &mut Gradients,
    ) -> CandleResult<()> {
        let mut put = |to: &Tensor, values: Vec<f32>| match values.is_empty() {
            true => Ok(()),
            false => grads.add_values(to, values),
        };
        if layers.embeddings_learn {
            let mut table = vec![0.0; self.embeddings.elem_count()];
            let rows = sums.embedded.iter().flat_map(|group| group.chunks_exact(layers.width));
            for (id, row) in sequences.iter().copied().flatten().zip(rows) {
                add_to(&mut table[*id as usize * layers.width..][..layers.width], row);
            }
            put(&self.embeddings, table)?;
        }
        put(&self.norm, sums.norm)?;
        let numbered = self.layers.iter().enumerate().skip(layers.first);
        for ((number, layer), found) in numbered.zip(sums.layers) {
            put(&layer.input_norm, found.input_norm)?;
            put(&layer.post_norm, found.post_norm)?;
            for (norm, found) in layer.head_norms.iter().flatten().zip(found.head_norms) {
                put(norm, found)?;
            }
            for (target, found) in LoraTarget::ALL.into_iter().zip(found.projections) {
                if let Weight::Tensor(weight) = &layer.projections[target as usize] {
                    put(weight, found.weight)?;
                }
                if let Some(bias) = layer.biases.as_ref().and_then(|all| all.get(target as usize)) {
                    put(bias, found.bias)?;
                }
                if let Some((a, b)) = adapter.and_then(|view| view.pairs.get(&(number, target))) {
                    let (out, rank) = b.dims2()?;
                    put(a, found.a)?;
                    put(b, crate::kernel::transposed(&found.b, rank, out))?;
                }
            }
        }
        Ok(())
    }
}

fn length(row: &[f32]) -> f32 {
    (row.iter().map(|value| value * value).sum::<f32>() + LENGTH).sqrt()
}
