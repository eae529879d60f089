//! The way forward.

use candle_core::{Result, bail};

use super::tape::{LayerTape, Tape};
use super::{DOWN, GATE, K, Layer, Layers, OUTPUT, Q, UP, V, Values, size};
use crate::kernel::{add_to, rms_norm, swiglu};
use crate::train::autograd::attention::Pack;
use crate::train::model::encoder::mean_rows;
use crate::types::Pooling;

impl Layers {
    /// States `x` behind the layers that learn nothing.
    pub(in crate::train::model) fn lower(
        &self,
        pack: &Pack,
        x: Vec<f32>,
        tape: &mut Tape,
    ) -> Result<Vec<f32>> {
        self.through(&self.layers[..self.first], pack, x, tape)
    }

    /// Pooled states `[sequences, hidden]` of the states `x` before the first layer that learns. To `keep` the backward
    /// pass takes a tape a layer.
    pub(in crate::train::model) fn pooled(
        &self,
        pack: &Pack,
        x: &[f32],
        keep: bool,
        tape: &mut Tape,
    ) -> Result<Vec<f32>> {
        let upper = &self.layers[self.first..];
        if keep {
            tape.layers.resize_with(tape.layers.len().max(upper.len()), LayerTape::default);
            let Some(first) = tape.layers.first_mut() else { bail!("a decoder has layers") };
            first.x.clear();
            first.x.extend_from_slice(x);
            for (at, layer) in upper.iter().enumerate() {
                let (own, rest) = tape.layers[at..].split_at_mut(1);
                let last = at + 1 == upper.len();
                let next = if last { &mut tape.last } else { &mut rest[0].x };
                layer.forward(
                    self,
                    pack,
                    &mut own[0],
                    (&mut tape.normal, &mut tape.inner),
                    next,
                )?;
            }
        } else {
            tape.last = self.through(upper, pack, x.to_vec(), tape)?;
        }
        Ok(self.pool(pack, &tape.last, &mut tape.normal))
    }

    /// States behind some layers, of which nothing is kept.
    fn through(
        &self,
        layers: &[Layer],
        pack: &Pack,
        x: Vec<f32>,
        tape: &mut Tape,
    ) -> Result<Vec<f32>> {
        if tape.layers.is_empty() {
            tape.layers.push(LayerTape::default());
        }
        let mut own = std::mem::replace(&mut tape.layers[0].x, x);
        for layer in layers {
            let buffers = (&mut tape.normal, &mut tape.inner);
            layer.forward(self, pack, &mut tape.layers[0], buffers, &mut own)?;
            std::mem::swap(&mut tape.layers[0].x, &mut own);
        }
        Ok(std::mem::take(&mut tape.layers[0].x))
    }

    /// The last norm and the pooling of states `[tokens, hidden]`.
    fn pool(&self, pack: &Pack, last: &[f32], normal: &mut Vec<f32>) -> Vec<f32> {
        let weight = &self.norm.numbers;
        match self.pooling {
            Pooling::Mean => {
                size(normal, last.len());
                rms_norm::forward(last, weight, self.epsilon, normal);
                mean_rows(normal, pack, self.width)
            }
            _ => {
                let rows = last_rows(pack, self.width).map(|row| &last[row]).collect::<Vec<_>>();
                let rows = rows.concat();
                let mut pooled = vec![0.0; rows.len()];
                rms_norm::forward(&rows, weight, self.epsilon, &mut pooled);
                pooled
            }
        }
    }
}

/// Where the last token of each sequence is in `[tokens, width]`.
pub(super) fn last_rows(
    pack: &Pack,
    width: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut end = 0;
    pack.lengths.iter().map(move |length| {
        end += length * width;
        end - width..end
    })
}

impl Layer {
    /// From `tape.x` to `next`.
    fn forward(
        &self,
        layers: &Layers,
        pack: &Pack,
        tape: &mut LayerTape,
        (normal, inner): (&mut Vec<f32>, &mut Vec<f32>),
        next: &mut Vec<f32>,
    ) -> Result<()> {
        let (rows, epsilon) = (pack.total(), layers.epsilon);
        let LayerTape { x, q, k, v, raw, mixed, middle, gate, up, low } = tape;
        let [low_q, low_k, low_v, low_o, low_gate, low_up, low_down] = low;
        self.normalised(&self.input_norm, epsilon, x, normal);
        let [raw_q, raw_k] = raw;
        let heads = self.head_norms.as_ref();
        for (at, low, raw, to, norm) in [
            (Q, low_q, raw_q, &mut *q, heads.map(|norms| &norms[0])),
            (K, low_k, raw_k, &mut *k, heads.map(|norms| &norms[1])),
        ] {
            match norm {
                None => self.projections[at].forward(normal, rows, low, to)?,
                Some(norm) => {
                    self.projections[at].forward(normal, rows, low, raw)?;
                    self.normalised(norm, epsilon, raw, to);
                }
            }
        }
        self.projections[V].forward(normal, rows, low_v, v)?;
        size(mixed, q.len());
        pack.seeing(self.window).forward(q, k, v, mixed);
        self.projections[OUTPUT].forward(mixed, rows, low_o, middle)?;
        add_to(middle, x);
        self.normalised(&self.post_norm, epsilon, middle, normal);
        self.projections[GATE].forward(normal, rows, low_gate, gate)?;
        self.projections[UP].forward(normal, rows, low_up, up)?;
        size(inner, gate.len());
        swiglu::forward(gate, up, inner);
        self.projections[DOWN].forward(inner, rows, low_down, next)?;
        add_to(next, middle);
        Ok(())
    }

    /// Rows as wide as the norm's weight, normalised.
    pub(super) fn normalised(&self, norm: &Values, epsilon: f32, x: &[f32], y: &mut Vec<f32>) {
        size(y, x.len());
        rms_norm::forward(x, &norm.numbers, epsilon, y);
    }
}
