//! The layers: weights packed for the kernels, and one group of sequences taken through them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::format::read_matrix;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::kernel::{
    Activations, Attention, Buffer, Format, Heads, Isa, Linear, Matrix, PrepareHeads, Scratch,
    Span, Then, add_to, rms_norm_rows,
};
use crate::tower::model::layer_weights::{LayerWeights, Weights};
use crate::tower::model::pool::Want;
use crate::tower::model::rope::Rope;
use crate::tower::{DecoderConfig, WeightSource};

/// All weights, shared by the threads.
pub(super) struct Model {
    isa: Isa,
    pub(super) config: DecoderConfig,
    heads: Heads,
    rope: Rope,
    /// Of sliding layers, where it is another.
    sliding_rope: Option<Rope>,
    vocabulary: Vocabulary,
    layers: Vec<Layer>,
    norm: Vec<f32>,
}

struct Layer {
    input_norm: Vec<f32>,
    q: Linear,
    kv: Linear,
    q_bias: Option<Vec<f32>>,
    kv_bias: Option<Vec<f32>>,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    o: Linear,
    attended_norm: Option<Vec<f32>>,
    inner_norm: Vec<f32>,
    gate_up: Linear,
    down: Linear,
    outer_norm: Option<Vec<f32>>,
}

impl Layer {
    fn pack(format: Format, config: &DecoderConfig, w: LayerWeights<Matrix>) -> Self {
        let (hidden, middle) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        Self {
            q: Linear::stack(format, &[&w.q], q, hidden),
            kv: Linear::stack(format, &[&w.k, &w.v], 2 * kv, hidden),
            o: Linear::stack(format, &[&w.o], hidden, q),
            gate_up: Linear::gate_up(format, config.gate(), [&w.gate, &w.up], middle, hidden),
            down: Linear::stack(format, &[&w.down], hidden, middle),
            input_norm: w.input_norm,
            q_bias: w.q_bias,
            kv_bias: w.kv_bias,
            q_norm: w.q_norm,
            k_norm: w.k_norm,
            attended_norm: w.attended_norm,
            inner_norm: w.inner_norm,
            outer_norm: w.outer_norm,
        }
    }
}

/// Working memory of one thread; grows to the largest group it has seen.
#[derive(Default)]
pub(super) struct Workspace {
    activations: Activations,
    scratch: Scratch,
    x: Buffer,
    q: Buffer,
    kv: Buffer,
    attended: Buffer,
    middle: Buffer,
    /// What joins the residual stream after a norm.
    joining: Buffer,
    positions: Vec<u32>,
    last: Vec<u32>,
    spans: Vec<Span>,
}

impl Workspace {
    fn reserve(&mut self, config: &DecoderConfig, m: usize) {
        self.x.reserve(m * config.hidden_size);
        self.q.reserve(m * config.heads * config.head_dim);
        self.attended.reserve(m * config.heads * config.head_dim);
        self.kv.reserve(m * 2 * config.kv_heads * config.head_dim);
        self.middle.reserve(m * config.intermediate_size.max(config.hidden_size));
    }
}

impl Model {
    /// Reads and packs all weights, layers in parallel.
    pub(super) fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        threads: usize,
        max_tokens: usize,
        (isa, format): (Isa, Format),
    ) -> Result<Self> {
        let weights = Weights { config, source };
        let slots: Vec<Mutex<Option<Result<Layer>>>> =
            (0..config.layers).map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let vocabulary = std::thread::scope(|scope| {
            for _ in 0..threads.min(config.layers) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(slot) = slots.get(at) else { return };
                        let layer = weights
                            .layer(at, |name, shape| read_matrix(format, &weights, name, shape))
                            .map(|w| Layer::pack(format, config, w));
                        if let Ok(mut slot) = slot.lock() {
                            *slot = Some(layer);
                        }
                    }
                });
            }
            Vocabulary::read(&weights, format)
        })?;
        let layers = slots
            .into_iter()
            .map(|slot| {
                let layer = slot.into_inner().ok().flatten();
                layer.unwrap_or_else(|| Err(Error::internal("a layer was not loaded")))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            isa,
            config: config.clone(),
            heads: Heads { heads: config.heads, kv_heads: config.kv_heads, dim: config.head_dim },
            rope: Rope::new(config, max_tokens),
            sliding_rope: Rope::of_sliding(config, max_tokens),
            vocabulary,
            layers,
            norm: weights.norm()?,
        })
    }

    /// Multiply-adds of a sequence in all layers.
    pub(super) fn cost(&self, length: usize) -> u64 {
        let c = &self.config;
        let seen: usize = (0..c.layers).map(|layer| c.window(layer).most(length)).sum();
        (length * (c.products() + seen * c.heads * c.head_dim)) as u64
    }

    /// Takes a group of sequences through all layers; the states come in the order of the sequences.
    pub(super) fn forward<'w>(
        &self,
        w: &'w mut Workspace,
        sequences: &[&[u32]],
        want: Want,
    ) -> &'w [f32] {
        let hidden = self.config.hidden_size;
        let m: usize = sequences.iter().map(|sequence| sequence.len()).sum();
        w.reserve(&self.config, m);
        w.spans.clear();
        w.positions.clear();
        w.last.clear();
        let mut start = 0;
        for sequence in sequences {
            let len = sequence.len();
            w.spans.push(Span { start, len, query_start: start, queries: len });
            w.positions.extend(0..len as u32);
            w.last.push(len as u32 - 1);
            for (row, id) in w.x[start * hidden..].chunks_exact_mut(hidden).zip(*sequence) {
                self.vocabulary.copy(*id, row);
            }
            start += len;
        }
        let mut rows = m;
        for (at, layer) in self.layers.iter().enumerate() {
            let last = want == Want::Last && at + 1 == self.layers.len();
            self.attend(w, (at, layer), m, last);
            if last {
                rows = sequences.len();
            }
            self.feed_forward(w, layer, rows);
        }
        let eps = self.config.rms_norm_eps as f32;
        rms_norm_rows(self.isa, &mut w.x[..rows * hidden], &self.norm, eps);
        let pool = match want {
            Want::All | Want::Last => return &w.x[..rows * hidden],
            Want::First => None,
            Want::Pooled(pool) => Some(pool),
        };
        let mut start = 0;
        for (sequence, to) in sequences.iter().zip(w.middle.chunks_exact_mut(hidden)) {
            let rows = &w.x[start * hidden..(start + sequence.len()) * hidden];
            match pool {
                Some(pool) => pool.apply(rows, to),
                None => to.copy_from_slice(&rows[..hidden]),
            }
            start += sequence.len();
        }
        &w.middle[..sequences.len() * hidden]
    }

    /// x += attention(norm(x)). Where only the `last` positions are wanted, x is cut down to them: keys and
    /// values need all rows, queries do not.
    fn attend(&self, w: &mut Workspace, (at, layer): (usize, &Layer), m: usize, last: bool) {
        let (isa, hidden, heads) = (self.isa, self.config.hidden_size, self.heads);
        let (q_width, kv_width) = (heads.heads * heads.dim, 2 * heads.kv_heads * heads.dim);
        let eps = self.config.rms_norm_eps as f32;
        let norm = Some((&layer.input_norm[..], eps));
        let a = &mut w.activations;
        layer.kv.prepare(isa, &w.x, m, norm, a);
        layer.kv.apply(isa, a, m, &mut w.kv, Then::Store);
        let mut rows = m;
        if last {
            for (row, span) in w.spans.iter_mut().enumerate() {
                let from = (span.start + span.len - 1) * hidden;
                w.x.copy_within(from..from + hidden, row * hidden);
                (span.query_start, span.queries) = (row, 1);
            }
            rows = w.spans.len();
            layer.q.prepare(isa, &w.x, rows, norm, a);
        }
        layer.q.apply(isa, a, rows, &mut w.q, Then::Store);
        let rope = match &self.sliding_rope {
            Some(rope) if self.config.slides(at) => rope.tables(),
            _ => self.rope.tables(),
        };
        PrepareHeads {
            x: &mut w.kv[..m * kv_width],
            stride: kv_width,
            heads: heads.kv_heads,
            dim: heads.dim,
            positions: &w.positions,
            bias: layer.kv_bias.as_deref(),
            norm: layer.k_norm.as_deref().map(|weight| (weight, eps)),
            rope,
            scale: 1.,
        }
        .apply(isa);
        PrepareHeads {
            x: &mut w.q[..rows * q_width],
            stride: q_width,
            heads: heads.heads,
            dim: heads.dim,
            positions: if last { &w.last } else { &w.positions },
            bias: layer.q_bias.as_deref(),
            norm: layer.q_norm.as_deref().map(|weight| (weight, eps)),
            rope,
            scale: self.config.score_scale() as f32,
        }
        .apply(isa);
        Attention {
            q: &w.q,
            kv: &w.kv,
            out: &mut w.attended,
            spans: &w.spans,
            heads,
            window: self.config.window(at),
            scratch: &mut w.scratch,
        }
        .apply(isa);
        layer.o.prepare(isa, &w.attended, rows, None, a);
        self.join(&layer.o, layer.attended_norm.as_deref(), w, rows);
    }

    /// x += norm(y), where y is what `last` makes of the rows prepared for it; without a norm x += y.
    fn join(&self, last: &Linear, norm: Option<&[f32]>, w: &mut Workspace, rows: usize) {
        let (isa, a) = (self.isa, &mut w.activations);
        let Some(norm) = norm else { return last.apply(isa, a, rows, &mut w.x, Then::Add) };
        let count = rows * self.config.hidden_size;
        w.joining.reserve(count);
        let y = &mut w.joining[..count];
        last.apply(isa, a, rows, y, Then::Store);
        rms_norm_rows(isa, y, norm, self.config.rms_norm_eps as f32);
        add_to(&mut w.x[..count], y);
    }

    /// x += down(f(gate(norm(x))) * up(norm(x))), as [`Model::join`] adds.
    fn feed_forward(&self, w: &mut Workspace, layer: &Layer, rows: usize) {
        let norm = Some((&layer.inner_norm[..], self.config.rms_norm_eps as f32));
        let (isa, a) = (self.isa, &mut w.activations);
        layer.gate_up.prepare(isa, &w.x, rows, norm, a);
        layer.gate_up.apply(isa, a, rows, &mut w.middle, Then::Store);
        layer.down.prepare(isa, &w.middle, rows, None, a);
        self.join(&layer.down, layer.outer_norm.as_deref(), w, rows);
    }
}
