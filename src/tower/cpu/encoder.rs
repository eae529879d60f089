//! A BERT-family encoder on this machine's processor: weights packed at load into the panels that the kernels read, a group
//! of whole sequences taken through all layers by each thread.

use super::format::best;
use super::groups::{Batch, threads};
use crate::error::Result;
use crate::kernel::{
    Activation, Activations, Attention, Buffer, Format, Heads, Isa, Linear, Matrix, Scratch, Span,
    Then, Window, activate, add_bias, layer_norm_rows,
};
use crate::tower::model::pool::Want;
use crate::types::{Arithmetic, Pooling};

/// Sizes of an encoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncoderShape {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    pub(crate) epsilon: f32,
    pub(crate) activation: Activation,
    /// How token states become one.
    pub(crate) pooling: Pooling,
    /// Rows of the projection that follows, if there is one.
    pub(crate) projected: Option<usize>,
}

/// Reads a tensor by its name and shape, row-major.
pub(crate) type Read<'a> = dyn Fn(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Weight and bias of a norm.
type Norm = (Vec<f32>, Vec<f32>);

struct Layer {
    q: Linear,
    kv: Linear,
    o: Linear,
    up: Linear,
    down: Linear,
    q_bias: Vec<f32>,
    kv_bias: Vec<f32>,
    o_bias: Vec<f32>,
    up_bias: Vec<f32>,
    down_bias: Vec<f32>,
    attention_norm: Norm,
    output_norm: Norm,
}

/// A loaded encoder and the working memory of its threads.
pub(crate) struct CpuEncoder {
    model: Model,
    group_tokens: usize,
    workspaces: Vec<Workspace>,
}

struct Model {
    isa: Isa,
    shape: EncoderShape,
    /// `[vocabulary, hidden]`
    words: Vec<f32>,
    /// `[positions, hidden]`, that of the only token type added.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    projection: Option<Linear>,
}

#[derive(Default)]
struct Workspace {
    activations: Activations,
    scratch: Scratch,
    x: Buffer,
    q: Buffer,
    kv: Buffer,
    attended: Buffer,
    inner: Buffer,
    pooled: Vec<f32>,
    vectors: Vec<f32>,
    spans: Vec<Span>,
}

impl CpuEncoder {
    /// Reads and packs all weights for the `wanted` threads, 0: all of the machine.
    ///
    /// # Errors
    /// Unsupported for f16; whatever `read` reports.
    pub(crate) fn load(
        shape: EncoderShape,
        (vocabulary, positions, types): (usize, usize, usize),
        read: &Read<'_>,
        wanted: usize,
        isa: Isa,
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let format = best(arithmetic, isa)?;
        Ok(Self {
            model: Model::load(shape, (vocabulary, positions, types), read, isa, format)?,
            group_tokens: format.group_tokens(),
            workspaces: (0..threads(wanted)).map(|_| Workspace::default()).collect(),
        })
    }

    /// Projected means, `[sequences, dimensions]`, not normalised. Ids and lengths lie within the tables. A row's bits
    /// depend on its own sequence only.
    pub(crate) fn run(&mut self, sequences: &[&[u32]]) -> Vec<f32> {
        let model = &self.model;
        let width = model.dimensions();
        let batch = Batch { sequences, group_tokens: self.group_tokens, width };
        batch.run(
            &mut self.workspaces,
            |length| model.cost(length),
            |_| 1,
            |workspace, members| model.forward(workspace, members),
        )
    }
}

impl Model {
    fn load(
        shape: EncoderShape,
        (vocabulary, positions, types): (usize, usize, usize),
        read: &Read<'_>,
        isa: Isa,
        format: Format,
    ) -> Result<Self> {
        let EncoderShape { hidden, inner, .. } = shape;
        let norm = |name: &str| -> Result<Norm> {
            Ok((
                read(&format!("{name}.weight"), &[hidden])?,
                read(&format!("{name}.bias"), &[hidden])?,
            ))
        };
        let types = read("embeddings.token_type_embeddings.weight", &[types, hidden])?;
        let mut table = read("embeddings.position_embeddings.weight", &[positions, hidden])?;
        for row in table.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types).for_each(|(x, t)| *x += t);
        }
        let mut layers = Vec::with_capacity(shape.layers);
        for at in 0..shape.layers {
            let name = |part: &str| format!("encoder.layer.{at}.{part}");
            let weight = |part: &str, n: usize, k: usize| -> Result<Matrix> {
                let floats = read(&format!("{}.weight", name(part)), &[n, k])?;
                Ok(format.matrix(floats, k))
            };
            let bias = |part: &str, n: usize| read(&format!("{}.bias", name(part)), &[n]);
            let square = |part: &str| weight(&format!("attention.self.{part}"), hidden, hidden);
            let kv_bias =
                [bias("attention.self.key", hidden)?, bias("attention.self.value", hidden)?];
            let o = weight("attention.output.dense", hidden, hidden)?;
            let up = weight("intermediate.dense", inner, hidden)?;
            let down = weight("output.dense", hidden, inner)?;
            let (k, v) = (square("key")?, square("value")?);
            layers.push(Layer {
                q: Linear::stack(format, &[&square("query")?], hidden, hidden),
                kv: Linear::stack(format, &[&k, &v], 2 * hidden, hidden),
                o: Linear::stack(format, &[&o], hidden, hidden),
                up: Linear::stack(format, &[&up], inner, hidden),
                down: Linear::stack(format, &[&down], hidden, inner),
                q_bias: bias("attention.self.query", hidden)?,
                kv_bias: kv_bias.concat(),
                o_bias: bias("attention.output.dense", hidden)?,
                up_bias: bias("intermediate.dense", inner)?,
                down_bias: bias("output.dense", hidden)?,
                attention_norm: norm(&name("attention.output.LayerNorm"))?,
                output_norm: norm(&name("output.LayerNorm"))?,
            });
        }
        let projection = match shape.projected {
            None => None,
            Some(rows) => {
                let matrix = format.matrix(read("projection.weight", &[rows, hidden])?, hidden);
                Some(Linear::stack(format, &[&matrix], rows, hidden))
            }
        };
        Ok(Self {
            isa,
            shape,
            words: read("embeddings.word_embeddings.weight", &[vocabulary, hidden])?,
            positions: table,
            norm: norm("embeddings.LayerNorm")?,
            layers,
            projection,
        })
    }

    fn dimensions(&self) -> usize {
        self.shape.projected.unwrap_or(self.shape.hidden)
    }

    /// Multiply-adds of a sequence in one layer.
    fn cost(&self, length: usize) -> u64 {
        let EncoderShape { hidden, inner, .. } = self.shape;
        (length * (4 * hidden * hidden + 2 * hidden * inner + 2 * length * hidden)) as u64
    }

    fn forward<'w>(&self, w: &'w mut Workspace, sequences: &[&[u32]]) -> &'w [f32] {
        let EncoderShape { hidden, inner, heads, epsilon, activation, .. } = self.shape;
        let isa = self.isa;
        let m: usize = sequences.iter().map(|sequence| sequence.len()).sum();
        for buffer in [&mut w.x, &mut w.q, &mut w.attended] {
            buffer.reserve(m * hidden);
        }
        w.kv.reserve(m * 2 * hidden);
        w.inner.reserve(m * inner);
        w.spans.clear();
        let mut start = 0;
        for sequence in sequences {
            let len = sequence.len();
            w.spans.push(Span { start, len, query_start: start, queries: len });
            let rows = w.x[start * hidden..(start + len) * hidden].chunks_exact_mut(hidden);
            let positions = self.positions.chunks_exact(hidden);
            for ((row, id), position) in rows.zip(*sequence).zip(positions) {
                let word = &self.words[*id as usize * hidden..][..hidden];
                for ((x, word), position) in row.iter_mut().zip(word).zip(position) {
                    *x = word + position;
                }
            }
            start += len;
        }
        let nothing = vec![0f32; hidden];
        let norm = |x: &mut [f32], add: &[f32], (weight, bias): &Norm| {
            layer_norm_rows(isa, x, add, weight, bias, epsilon);
        };
        norm(&mut w.x[..m * hidden], &nothing, &self.norm);
        let heads = Heads { heads, kv_heads: heads, dim: hidden / heads };
        let scale = (heads.dim as f32).sqrt().recip();
        let a = &mut w.activations;
        for layer in &self.layers {
            layer.q.prepare(isa, &w.x, m, None, a);
            layer.q.apply(isa, a, m, &mut w.q, Then::Store);
            layer.kv.apply(isa, a, m, &mut w.kv, Then::Store);
            add_bias(isa, &mut w.q[..m * hidden], &layer.q_bias, scale);
            add_bias(isa, &mut w.kv[..m * 2 * hidden], &layer.kv_bias, 1.0);
            Attention {
                q: &w.q,
                kv: &w.kv,
                out: &mut w.attended,
                spans: &w.spans,
                heads,
                window: Window::FULL,
                scratch: &mut w.scratch,
            }
            .apply(isa);
            layer.o.prepare(isa, &w.attended, m, None, a);
            layer.o.apply(isa, a, m, &mut w.x, Then::Add);
            norm(&mut w.x[..m * hidden], &layer.o_bias, &layer.attention_norm);
            layer.up.prepare(isa, &w.x, m, None, a);
            layer.up.apply(isa, a, m, &mut w.inner, Then::Store);
            activate(isa, &mut w.inner[..m * inner], &layer.up_bias, activation);
            layer.down.prepare(isa, &w.inner, m, None, a);
            layer.down.apply(isa, a, m, &mut w.x, Then::Add);
            norm(&mut w.x[..m * hidden], &layer.down_bias, &layer.output_norm);
        }
        w.pooled.resize(sequences.len() * hidden, 0.);
        for (span, to) in w.spans.iter().zip(w.pooled.chunks_exact_mut(hidden)) {
            let rows = &w.x[span.start * hidden..(span.start + span.len) * hidden];
            match self.shape.pooling.into() {
                Want::Pooled(pool) => pool.apply(rows, to),
                Want::First | Want::All => to.copy_from_slice(&rows[..hidden]),
                Want::Last => to.copy_from_slice(&rows[rows.len() - hidden..]),
            }
        }
        let Some(projection) = &self.projection else { return &w.pooled };
        w.vectors.resize(sequences.len() * self.dimensions(), 0.);
        projection.prepare(isa, &w.pooled, sequences.len(), None, a);
        projection.apply(isa, a, sequences.len(), &mut w.vectors, Then::Store);
        &w.vectors
    }
}

#[cfg(test)]
mod tests;
