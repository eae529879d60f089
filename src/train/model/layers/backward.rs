//! The backward pass.

use candle_core::Result;

use super::forward::last_rows;
use super::projection::{Passed, ProjectionGradients};
use super::tape::{Buffers, LayerTape, Tape};
use super::{DOWN, GATE, K, Layer, Layers, OUTPUT, Q, UP, V, Values, size};
use crate::kernel::{add_to, rms_norm, swiglu};
use crate::train::autograd::attention::Pack;
use crate::train::model::encoder::spread_rows;
use crate::types::Pooling;

/// Gradients of a layer's parameters; empty for what does not learn.
pub(in crate::train::model) struct LayerGradients {
    pub(in crate::train::model) input_norm: Vec<f32>,
    pub(in crate::train::model) post_norm: Vec<f32>,
    pub(in crate::train::model) projections: [ProjectionGradients; 7],
    pub(in crate::train::model) head_norms: [Vec<f32>; 2],
}

/// Gradients of all layers, the last norm's, and those of the embeddings of each group's tokens.
pub(in crate::train::model) struct Sums {
    pub(in crate::train::model) layers: Vec<LayerGradients>,
    pub(in crate::train::model) norm: Vec<f32>,
    pub(in crate::train::model) embedded: Vec<Vec<f32>>,
}

impl Sums {
    pub(in crate::train::model) fn add(mut self, other: Self) -> Self {
        for (own, other) in self.layers.iter_mut().zip(&other.layers) {
            add_to(&mut own.input_norm, &other.input_norm);
            add_to(&mut own.post_norm, &other.post_norm);
            for (own, other) in own.projections.iter_mut().zip(&other.projections) {
                own.add(other);
            }
            for (own, other) in own.head_norms.iter_mut().zip(&other.head_norms) {
                add_to(own, other);
            }
        }
        add_to(&mut self.norm, &other.norm);
        self.embedded.extend(other.embedded);
        self
    }
}

impl Layers {
    /// Zeros for everything that learns, from the first layer that does.
    pub(in crate::train::model) fn sums(&self) -> Sums {
        let zeros = |layer: &Layer| LayerGradients {
            input_norm: layer.input_norm.zeros(),
            post_norm: layer.post_norm.zeros(),
            projections: layer.projections.each_ref().map(super::Projection::gradients),
            head_norms: match &layer.head_norms {
                Some(norms) => norms.each_ref().map(Values::zeros),
                None => Default::default(),
            },
        };
        let layers = self.layers[self.first..].iter().map(zeros).collect();
        Sums { layers, norm: self.norm.zeros(), embedded: Vec::new() }
    }

    /// Adds what a group's parameters learn from the gradient of its pooled states, `[sequences, hidden]`. `tape` is as
    /// [`Layers::pooled`] left it.
    pub(in crate::train::model) fn backward(
        &self,
        pack: &Pack,
        tape: &mut Tape,
        dpooled: &[f32],
        sums: &mut Sums,
    ) -> Result<()> {
        self.unpool(pack, tape, dpooled, &mut sums.norm);
        let Tape { layers, normal, inner, back, .. } = tape;
        let upper = self.layers[self.first..].iter().zip(layers).zip(&mut sums.layers);
        for (at, ((layer, tape), grads)) in upper.enumerate().rev() {
            let below = self.embeddings_learn || layer.input_norm.learns;
            let is_lowest = at == 0 && !below;
            layer.backward(self, pack, tape, (normal, inner), back, grads, is_lowest)?;
        }
        if self.embeddings_learn {
            sums.embedded.push(back.gradient.clone());
        }
        Ok(())
    }

    /// From the gradient of the pooled states that of the last ones, into the buffers.
    fn unpool(&self, pack: &Pack, tape: &mut Tape, dpooled: &[f32], dnorm: &mut [f32]) {
        let (last, weight) = (&tape.last, &self.norm.numbers);
        let Buffers { gradient, other, .. } = &mut tape.back;
        size(gradient, last.len());
        match self.pooling {
            Pooling::Mean => {
                spread_rows(dpooled, pack, self.width, other);
                rms_norm::backward((last, weight, other), self.epsilon, gradient, dnorm);
            }
            _ => {
                let rows: Vec<_> = last_rows(pack, self.width).collect();
                let ends: Vec<f32> =
                    rows.iter().flat_map(|row| &last[row.clone()]).copied().collect();
                let mut dends = vec![0.0; ends.len()];
                rms_norm::backward((&ends, weight, dpooled), self.epsilon, &mut dends, dnorm);
                gradient.fill(0.0);
                for (row, dend) in rows.into_iter().zip(dends.chunks_exact(self.width)) {
                    gradient[row].copy_from_slice(dend);
                }
            }
        }
    }
}

impl Layer {
    /// Turns the gradient of the layer's output into that of its input, unless it `is_lowest`.
    #[expect(clippy::too_many_arguments, reason = "buffers that are borrowed apart")]
    fn backward(
        &self,
        layers: &Layers,
        pack: &Pack,
        tape: &LayerTape,
        (normal, inner): (&mut Vec<f32>, &mut Vec<f32>),
        back: &mut Buffers,
        grads: &mut LayerGradients,
        is_lowest: bool,
    ) -> Result<()> {
        let (rows, epsilon) = (pack.total(), layers.epsilon);
        let Buffers { gradient, other, mixed, heads, inner: dinner, gate, up, low } = back;
        let parts = &mut grads.projections;

        size(inner, tape.gate.len());
        swiglu::forward(&tape.gate, &tape.up, inner);
        size(dinner, inner.len());
        let down = Passed { rows, x: &inner[..], low: &tape.low[DOWN], g: &gradient[..] };
        self.projections[DOWN].backward(&down, Some((dinner, false)), low, &mut parts[DOWN])?;
        size(gate, inner.len());
        size(up, inner.len());
        swiglu::backward((&tape.gate, &tape.up, dinner), gate, up);
        self.normalised(&self.post_norm, epsilon, &tape.middle, normal);
        size(other, gradient.len());
        for (at, g, add) in [(GATE, &*gate, false), (UP, &*up, true)] {
            let raised = Passed { rows, x: &normal[..], low: &tape.low[at], g: &g[..] };
            self.projections[at].backward(&raised, Some((other, add)), low, &mut parts[at])?;
        }
        // The gradient behind the attention: past the rest of the layer, and through it.
        let through = (&tape.middle[..], &self.post_norm.numbers[..], &other[..]);
        add_backward(through, epsilon, normal, &mut grads.post_norm, gradient);

        size(mixed, tape.mixed.len());
        let output = Passed { rows, x: &tape.mixed[..], low: &tape.low[OUTPUT], g: &gradient[..] };
        self.projections[OUTPUT].backward(
            &output,
            Some((mixed, false)),
            low,
            &mut parts[OUTPUT],
        )?;
        let [dq, dk, dv] = heads;
        for (to, like) in [(&mut *dq, &tape.q), (&mut *dk, &tape.k), (&mut *dv, &tape.v)] {
            size(to, like.len());
        }
        pack.seeing(self.window).backward([&tape.q, &tape.k, &tape.v, mixed], [dq, dk, dv]);
        if let Some(norms) = &self.head_norms {
            let ends = [(&mut *dq, &tape.raw[0]), (&mut *dk, &tape.raw[1])];
            for (((g, raw), norm), dnorm) in ends.into_iter().zip(norms).zip(&mut grads.head_norms)
            {
                size(mixed, raw.len());
                rms_norm::backward((raw, &norm.numbers, g), epsilon, mixed, dnorm);
                std::mem::swap(g, mixed);
            }
        }
        self.normalised(&self.input_norm, epsilon, &tape.x, normal);
        for (at, g, add) in [(Q, &*dq, false), (K, &*dk, true), (V, &*dv, true)] {
            let read = Passed { rows, x: &normal[..], low: &tape.low[at], g: &g[..] };
            let dx = (!is_lowest).then_some((&mut other[..], add));
            self.projections[at].backward(&read, dx, low, &mut parts[at])?;
        }
        if !is_lowest {
            let through = (&tape.x[..], &self.input_norm.numbers[..], &other[..]);
            add_backward(through, epsilon, normal, &mut grads.input_norm, gradient);
        }
        Ok(())
    }
}

/// Adds to `dx` the gradient of a norm's input `x`, given that of its output; `buffer` is as large.
fn add_backward(
    (x, weight, g): (&[f32], &[f32], &[f32]),
    epsilon: f32,
    buffer: &mut Vec<f32>,
    dweight: &mut [f32],
    dx: &mut [f32],
) {
    size(buffer, x.len());
    rms_norm::backward((x, weight, g), epsilon, buffer, dweight);
    add_to(dx, buffer);
}
