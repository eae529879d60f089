//! What a batch teaches an encoder: the gradients of all its parameters, added up over groups of sequences.

use std::ops::Range;

use candle_core::{DType, Result as CandleResult, Tensor, Var, bail};
use rayon::prelude::*;

use super::Bert;
use crate::error::Result;
use crate::kernel::{Norm, add_to};
use crate::train::autograd::ops::with_all;
use crate::train::model::encoder::{
    Encoder, Gradients, LayerGradients, OUTPUT, Tape, groups, mean_rows, spread_rows,
};
use crate::train::tensors::tensor_error;

/// Makes of vectors `[some sequences, dimensions]` a scalar to be made small, and another to be told, out of the graph.
pub(crate) type PartLoss<'a> =
    dyn Fn(&Tensor, Range<usize>) -> CandleResult<(Tensor, Tensor)> + Sync + 'a;

/// What a step learns from a batch.
pub(crate) struct Learnt {
    /// Of every parameter, in their order; `None` where the loss does not depend on it.
    pub(crate) gradients: Vec<Option<Tensor>>,
    /// The sum of the parts' losses, without dimensions.
    pub(crate) loss: Tensor,
    /// The sum of their other scalars.
    pub(crate) measure: Tensor,
}

/// What one thread has learnt.
struct Part {
    sums: Gradients,
    projection: Vec<f32>,
    /// Of every group, the gradient of the sums of its embeddings.
    dembedded: Vec<Vec<f32>>,
    loss: Tensor,
    measure: Tensor,
}

impl Part {
    fn add(mut self, other: Self) -> CandleResult<Self> {
        self.sums.add(&other.sums);
        add_to(&mut self.projection, &other.projection);
        self.dembedded.extend(other.dembedded);
        self.loss = (self.loss + other.loss)?;
        self.measure = (self.measure + other.measure)?;
        Ok(self)
    }
}

impl Bert {
    /// The gradients of all parameters, in the order in which [`Bert::load`] gave them, with the sums of what `loss` gives: it is
    /// called for some of the sequences at a time, from several threads, and the gradients are those of the sum.
    pub(crate) fn gradients(&self, sequences: &[&[u32]], loss: &PartLoss<'_>) -> Result<Learnt> {
        self.check(sequences)?;
        // Every thread works off groups of its own: shared, the small matrices of a group would not keep two busy.
        let threads = rayon::current_num_threads();
        let groups = groups(sequences, threads);
        let all = || -> CandleResult<Learnt> {
            let encoder = self.encoder()?;
            let share = groups.len().div_ceil(threads).max(1);
            let parts: Vec<Part> = groups
                .par_chunks(share)
                .map(|groups| self.part(&encoder, sequences, groups, loss))
                .collect::<CandleResult<_>>()?;
            let mut parts = parts.into_iter();
            let Some(first) = parts.next() else { bail!("no sequences") };
            let part = parts.try_fold(first, Part::add)?;
            let mut tables = Tables::new(self);
            for (group, dembedded) in groups.iter().zip(&part.dembedded) {
                tables.add(&sequences[group.clone()], dembedded);
            }
            let (loss, measure) = (part.loss, part.measure);
            let projection =
                Tensor::from_vec(part.projection, self.projection.shape(), &self.device)?;
            let gradients = self.in_order(tables, part.sums, projection)?;
            Ok(Learnt { gradients: gradients.into_iter().map(Some).collect(), loss, measure })
        };
        // Inside the pool: the hundreds of small parallel loops of a step then need not wake it each.
        rayon::scope(|_| all()).map_err(tensor_error)
    }

    /// What one thread has of the gradients.
    fn part(
        &self,
        encoder: &Encoder,
        sequences: &[&[u32]],
        groups: &[Range<usize>],
        loss: &PartLoss<'_>,
    ) -> CandleResult<Part> {
        let width = self.config.hidden_size;
        let mut tape = Tape::default();
        let zero = Tensor::zeros((), DType::F32, &self.device)?;
        let mut part = Part {
            sums: encoder.gradients()?,
            projection: vec![0.0; self.projection.elem_count()],
            dembedded: Vec::with_capacity(groups.len()),
            loss: zero.clone(),
            measure: zero,
        };
        let mut last = Vec::new();
        for range in groups {
            let group = &sequences[range.clone()];
            let pack = self.pack(group);
            self.embed(group, &mut tape.embedded)?;
            let means = mean_rows(encoder.forward(&pack, &mut tape)?, &pack, width);
            let means = Var::from_vec(means, (group.len(), width), &self.device)?;
            let projected = means.matmul(&self.projection.t()?)?;
            let (value, measure) = loss(&projected, range.clone())?;
            part.loss = (&part.loss + value.detach())?;
            part.measure = (&part.measure + measure)?;
            let store = value.backward()?;
            let (Some(dmeans), Some(own)) = (store.get(&means), store.get(&self.projection)) else {
                bail!("the loss does not depend on the vectors");
            };
            with_all([dmeans, own], |[dmeans, own]| {
                add_to(&mut part.projection, own);
                spread_rows(dmeans, &pack, width, &mut last);
                Ok(())
            })?;
            let dembedded = encoder.backward(&pack, &mut tape, &last, &mut part.sums)?;
            part.dembedded.push(dembedded.to_vec());
        }
        Ok(part)
    }

    /// Gradients in the order of the parameters.
    fn in_order(
        &self,
        tables: Tables,
        sums: Gradients,
        projection: Tensor,
    ) -> CandleResult<Vec<Tensor>> {
        let vector = |values: Vec<f32>| {
            let length = values.len();
            Tensor::from_vec(values, length, &self.device)
        };
        let mut all = tables.finish(self)?;
        let norm = |all: &mut Vec<Tensor>, norm: Norm| -> CandleResult<()> {
            all.extend([vector(norm.weight)?, vector(norm.bias)?]);
            Ok(())
        };
        norm(&mut all, sums.norm)?;
        for (layer, grads) in self.layers.iter().zip(sums.layers) {
            let LayerGradients { weights, biases, norms } = grads;
            let [attended, last] = norms;
            let mut attended = Some(attended);
            let matrices = layer.linear.iter().zip(weights.into_iter().zip(biases));
            for (at, ((weight, _), (dweight, dbias))) in matrices.enumerate() {
                all.push(Tensor::from_vec(dweight, weight.shape(), &self.device)?);
                all.push(vector(dbias)?);
                // Behind the attention's output, as in the file.
                if at == OUTPUT
                    && let Some(attended) = attended.take()
                {
                    norm(&mut all, attended)?;
                }
            }
            norm(&mut all, last)?;
        }
        all.push(projection);
        Ok(all)
    }
}

/// Gradients of the embedding tables, where they are trained.
struct Tables {
    width: usize,
    /// Words, positions, types.
    tables: Option<[Vec<f32>; 3]>,
}

impl Tables {
    fn new(bert: &Bert) -> Self {
        let zeros = |table: &Tensor| vec![0.0; table.elem_count()];
        let tables = || [&bert.words, &bert.positions, &bert.types].map(zeros);
        Self { width: bert.config.hidden_size, tables: bert.words.is_variable().then(tables) }
    }

    /// Adds the gradient of the sums of the embeddings of these sequences.
    fn add(&mut self, sequences: &[&[u32]], gradient: &[f32]) {
        let Some([words, positions, types]) = &mut self.tables else { return };
        let width = self.width;
        let mut rows = gradient.chunks_exact(width);
        for sequence in sequences {
            let places = positions.chunks_exact_mut(width);
            for ((id, place), row) in sequence.iter().zip(places).zip(&mut rows) {
                add_to(&mut words[*id as usize * width..][..width], row);
                add_to(place, row);
                add_to(&mut types[..width], row);
            }
        }
    }

    fn finish(self, bert: &Bert) -> CandleResult<Vec<Tensor>> {
        let tables = self.tables.into_iter().flatten();
        let like = [&bert.words, &bert.positions, &bert.types];
        tables.zip(like).map(|(t, like)| Tensor::from_vec(t, like.shape(), &bert.device)).collect()
    }
}
