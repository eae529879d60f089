//! The layers of an encoder, one way through them for all families.

use crate::error::Result;
use crate::kernel::{
    Activations, Attention, Buffer, DistanceBias, Format, Heads, Isa, Linear, Matrix, PrepareHeads,
    Scratch, Span, Then, Window, activate, add_bias, layer_norm_rows,
};
use crate::tower::model::encoder_config::{EncoderConfig, Rotary};
use crate::tower::model::encoder_weights::{EncoderLayer, EncoderWeights, Norm};
use crate::tower::model::pool::Want;
use crate::tower::model::rope::Rope;
use crate::types::Pooling;

/// All weights, shared by the threads.
pub(super) struct Model {
    isa: Isa,
    pub(super) config: EncoderConfig,
    /// How token states become one.
    pooling: Pooling,
    /// `[vocabulary, hidden]`
    words: Vec<f32>,
    /// `[rows, hidden]`, that of the only token type added; one row where positions have no embeddings.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    last_norm: Option<Norm>,
    /// Rotations in layers that see all keys, and in the others.
    ropes: Option<[Rope; 2]>,
    bias: Option<DistanceBias>,
    projection: Option<Linear>,
    /// A bias that is none.
    nothing: Vec<f32>,
}

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
    attention_norm: Option<Norm>,
    output_norm: Norm,
    window: Window,
}

/// Working memory of one thread; grows to the largest group it has seen.
#[derive(Default)]
pub(super) struct Workspace {
    activations: Activations,
    scratch: Scratch,
    x: Buffer,
    normed: Buffer,
    q: Buffer,
    kv: Buffer,
    attended: Buffer,
    inner: Buffer,
    pooled: Vec<f32>,
    vectors: Vec<f32>,
    positions: Vec<u32>,
    spans: Vec<Span>,
}

impl Layer {
    fn pack(config: &EncoderConfig, window: Window, w: EncoderLayer, format: Format) -> Self {
        let EncoderConfig { hidden, inner, activation, .. } = *config;
        let matrix = |floats: Vec<f32>, k: usize| format.matrix(floats, k);
        let [q, k, v] = w.qkv.map(|part| matrix(part, hidden));
        let [q_bias, k_bias, v_bias] = w.qkv_bias;
        let kv_bias = [k_bias, v_bias].concat();
        // A rotation and a gate do without; the others add whatever there is.
        let filled = |bias: Vec<f32>, without: bool, n: usize| match without || !bias.is_empty() {
            true => bias,
            false => vec![0.; n],
        };
        let (rotates, gated) = (config.rotary.is_some(), config.gated());
        let one = |matrix: &Matrix, n: usize, k: usize| Linear::stack(format, &[matrix], n, k);
        let up = matrix(w.up, hidden);
        let up = match w.gate {
            None => one(&up, inner, hidden),
            Some(w) => {
                let w = matrix(w, hidden);
                Linear::gate_up(format, activation, [&w, &up], inner, hidden)
            }
        };
        Self {
            q: one(&q, hidden, hidden),
            kv: Linear::stack(format, &[&k, &v], 2 * hidden, hidden),
            o: one(&matrix(w.output, hidden), hidden, hidden),
            up,
            down: one(&matrix(w.down, inner), hidden, inner),
            q_bias: filled(q_bias, rotates, hidden),
            kv_bias: filled(kv_bias, rotates, 2 * hidden),
            o_bias: w.output_bias,
            up_bias: filled(w.up_bias, gated, inner),
            down_bias: w.down_bias,
            attention_norm: w.attention_norm,
            output_norm: w.output_norm,
            window,
        }
    }
}

impl Model {
    /// Reads and packs all weights.
    pub(super) fn load(
        weights: &EncoderWeights<'_>,
        pooling: Pooling,
        isa: Isa,
        format: Format,
    ) -> Result<Self> {
        let config = weights.config;
        let (hidden, heads, dim) = (config.hidden, config.heads, config.head_dim());
        let layer = |(at, window): (usize, &Window)| {
            Ok(Layer::pack(config, *window, weights.layer(at)?, format))
        };
        let projection = weights.projection()?.map(|floats| {
            let rows = floats.len() / hidden;
            Linear::stack(format, &[&format.matrix(floats, hidden)], rows, hidden)
        });
        let rope =
            |local, rotary: Rotary| Rope::of(&rotary.frequencies(local, dim), config.max_positions);
        let bias = weights.relative()?.zip(config.relative).map(|(numbers, relative)| {
            let of = |head, distance| numbers[relative.bucket(distance) * heads + head];
            DistanceBias::new(heads, config.max_positions, of)
        });
        Ok(Self {
            isa,
            config: config.clone(),
            pooling,
            words: weights.words()?,
            positions: weights.positions()?,
            norm: weights.norm()?,
            layers: config.windows.iter().enumerate().map(layer).collect::<Result<_>>()?,
            last_norm: weights.last_norm()?,
            ropes: config.rotary.map(|rotary| [rope(false, rotary), rope(true, rotary)]),
            bias,
            projection,
            nothing: vec![0.; hidden],
        })
    }

    /// Takes a group of sequences through all layers and pools them; the rows come in their order.
    pub(super) fn forward<'w>(&self, w: &'w mut Workspace, sequences: &[&[u32]]) -> &'w [f32] {
        let hidden = self.config.hidden;
        let m = self.embed(w, sequences);
        for layer in &self.layers {
            self.attend(w, layer, m);
            self.feed_forward(w, layer, m);
        }
        if let Some(norm) = &self.last_norm {
            self.norm(&mut w.x[..m * hidden], &self.nothing, norm);
        }
        w.pooled.resize(sequences.len() * hidden, 0.);
        for (span, to) in w.spans.iter().zip(w.pooled.chunks_exact_mut(hidden)) {
            let rows = &w.x[span.start * hidden..(span.start + span.len) * hidden];
            match self.pooling.into() {
                Want::Pooled(pool) => pool.apply(rows, to),
                Want::First | Want::All => to.copy_from_slice(&rows[..hidden]),
                Want::Last => to.copy_from_slice(&rows[rows.len() - hidden..]),
            }
        }
        let Some(projection) = &self.projection else { return &w.pooled };
        let (isa, a) = (self.isa, &mut w.activations);
        w.vectors.resize(sequences.len() * self.config.dimensions(), 0.);
        projection.prepare(isa, &w.pooled, sequences.len(), None, a);
        projection.apply(isa, a, sequences.len(), &mut w.vectors, Then::Store);
        &w.vectors
    }

    /// The embeddings of all tokens, normalised; says how many there are.
    fn embed(&self, w: &mut Workspace, sequences: &[&[u32]]) -> usize {
        let EncoderConfig { hidden, inner, .. } = self.config;
        let embedded = self.config.learned.is_some();
        let m: usize = sequences.iter().map(|sequence| sequence.len()).sum();
        for buffer in [&mut w.x, &mut w.normed, &mut w.q, &mut w.attended] {
            buffer.reserve(m * hidden);
        }
        w.kv.reserve(m * 2 * hidden);
        w.inner.reserve(m * inner);
        w.spans.clear();
        w.positions.clear();
        let mut start = 0;
        for sequence in sequences {
            let len = sequence.len();
            w.spans.push(Span { start, len, query_start: start, queries: len });
            w.positions.extend(0..len as u32);
            let rows = w.x[start * hidden..(start + len) * hidden].chunks_exact_mut(hidden);
            let placed = self.config.position_rows(sequence).zip(*sequence);
            for (row, (position, id)) in rows.zip(placed) {
                // Where positions are not embedded, one row is that of all.
                let position = if embedded { position as usize } else { 0 };
                let position = &self.positions[position * hidden..][..hidden];
                let word = &self.words[*id as usize * hidden..][..hidden];
                for ((x, word), position) in row.iter_mut().zip(word).zip(position) {
                    *x = word + position;
                }
            }
            start += len;
        }
        self.norm(&mut w.x[..m * hidden], &self.nothing, &self.norm);
        m
    }

    /// x = norm(x + attention(x)), or x = x + attention(norm(x)).
    fn attend(&self, w: &mut Workspace, layer: &Layer, m: usize) {
        let EncoderConfig { hidden, heads, .. } = self.config;
        let isa = self.isa;
        let before = layer.attention_norm.as_ref().filter(|_| self.config.pre_norm);
        self.prepare(w, &layer.q, before, m);
        let a = &mut w.activations;
        layer.q.apply(isa, a, m, &mut w.q, Then::Store);
        layer.kv.apply(isa, a, m, &mut w.kv, Then::Store);
        let heads = Heads { heads, kv_heads: heads, dim: hidden / heads };
        let scale = (heads.dim as f32).sqrt().recip();
        let (q, kv) = (&mut w.q[..m * hidden], &mut w.kv[..m * 2 * hidden]);
        match &self.ropes {
            None => {
                add_bias(isa, q, &layer.q_bias, scale);
                add_bias(isa, kv, &layer.kv_bias, 1.0);
            }
            Some([all, local]) => {
                let rope = if layer.window == Window::FULL { all } else { local };
                let rotate = |x, stride, bias: &[f32], scale| {
                    PrepareHeads {
                        x,
                        stride,
                        heads: heads.heads,
                        dim: heads.dim,
                        positions: &w.positions,
                        bias: (!bias.is_empty()).then_some(bias),
                        norm: None,
                        rope: rope.tables(),
                        scale,
                    }
                    .apply(isa);
                };
                rotate(q, hidden, &layer.q_bias, scale);
                rotate(kv, 2 * hidden, &layer.kv_bias, 1.0);
            }
        }
        Attention {
            q: &w.q,
            kv: &w.kv,
            out: &mut w.attended,
            spans: &w.spans,
            heads,
            window: layer.window,
            scratch: &mut w.scratch,
        }
        .apply_with(isa, self.bias.as_ref());
        layer.o.prepare(isa, &w.attended, m, None, a);
        layer.o.apply(isa, a, m, &mut w.x, Then::Add);
        self.join(&mut w.x[..m * hidden], &layer.o_bias, layer.attention_norm.as_ref());
    }

    /// x = norm(x + f(x)), or x = x + f(norm(x)), f being the second half of a layer.
    fn feed_forward(&self, w: &mut Workspace, layer: &Layer, m: usize) {
        let EncoderConfig { hidden, inner, activation, .. } = self.config;
        let isa = self.isa;
        let before = Some(&layer.output_norm).filter(|_| self.config.pre_norm);
        self.prepare(w, &layer.up, before, m);
        let a = &mut w.activations;
        layer.up.apply(isa, a, m, &mut w.inner, Then::Store);
        if !self.config.gated() {
            activate(isa, &mut w.inner[..m * inner], &layer.up_bias, activation);
        }
        layer.down.prepare(isa, &w.inner, m, None, a);
        layer.down.apply(isa, a, m, &mut w.x, Then::Add);
        self.join(&mut w.x[..m * hidden], &layer.down_bias, Some(&layer.output_norm));
    }

    /// Takes x as the input of `linear`, normalised `before` where that is given.
    fn prepare(&self, w: &mut Workspace, linear: &Linear, before: Option<&Norm>, m: usize) {
        let a = &mut w.activations;
        let Some(norm) = before else {
            linear.prepare(self.isa, &w.x, m, None, a);
            return;
        };
        let rows = ..m * self.config.hidden;
        w.normed[rows].copy_from_slice(&w.x[rows]);
        self.norm(&mut w.normed[rows], &self.nothing, norm);
        linear.prepare(self.isa, &w.normed, m, None, a);
    }

    /// What follows the sum of x and half a layer: its bias, and the norm where that is behind it.
    fn join(&self, x: &mut [f32], bias: &[f32], norm: Option<&Norm>) {
        match norm.filter(|_| !self.config.pre_norm) {
            Some(norm) if bias.is_empty() => self.norm(x, &self.nothing, norm),
            Some(norm) => self.norm(x, bias, norm),
            None if bias.is_empty() => {}
            None => add_bias(self.isa, x, bias, 1.0),
        }
    }

    fn norm(&self, x: &mut [f32], add: &[f32], (weight, bias): &Norm) {
        layer_norm_rows(self.isa, x, add, weight, bias, self.config.epsilon as f32);
    }
}
