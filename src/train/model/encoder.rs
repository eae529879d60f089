//! A BERT-family encoder's layers, forward and back on slices.
//!
//! candle's graph makes a fresh tensor for every value and two for every gradient, which for a small encoder's short
//! texts takes longer than the products. Here a step works off groups of sequences that stay in the caches, in buffers
//! that are kept, and gradients are added up where they belong. The unit tests compare with the same layers composed of
//! candle's operations.

use std::ops::Range;

use candle_core::Result;

use crate::kernel::{Norm, add_columns, add_to, gelu};
use crate::train::autograd::attention::Pack;
use crate::train::autograd::linear::Weight;

/// The matrices of a layer, in the order of its parameters; those of the keys and the values follow that of the
/// queries.
const QUERY: usize = 0;
/// The matrix behind the attention.
pub(super) const OUTPUT: usize = 3;
const UP: usize = 4;
const DOWN: usize = 5;
/// Tokens that are worked off together: their values stay in the caches.
const GROUP_TOKENS: usize = 768;
/// How many matrices there are.
pub(super) const MATRICES: usize = 6;
/// The norms: behind the attention and behind the rest.
const ATTENDED: usize = 0;
const LAST: usize = 1;

/// What a layer multiplies with and adds.
pub(super) struct Layer {
    /// Query, key, value and output `[hidden, hidden]`, up `[inner, hidden]`, down `[hidden, inner]`.
    pub(super) weights: [Weight; MATRICES],
    pub(super) biases: [Vec<f32>; MATRICES],
    pub(super) norms: [Norm; 2],
}

/// An encoder for one step.
pub(super) struct Encoder {
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) epsilon: f32,
    /// Of the sum of the embeddings.
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
}

/// Gradients of a layer's parameters.
pub(super) struct LayerGradients {
    pub(super) weights: [Vec<f32>; MATRICES],
    pub(super) biases: [Vec<f32>; MATRICES],
    pub(super) norms: [Norm; 2],
}

/// Gradients of an encoder's parameters, but for its embedding tables.
pub(super) struct Gradients {
    pub(super) norm: Norm,
    pub(super) layers: Vec<LayerGradients>,
}

impl Gradients {
    pub(super) fn add(&mut self, other: &Self) {
        self.norm.add(&other.norm);
        for (own, other) in self.layers.iter_mut().zip(&other.layers) {
            for (own, other) in own.weights.iter_mut().zip(&other.weights) {
                add_to(own, other);
            }
            for (own, other) in own.biases.iter_mut().zip(&other.biases) {
                add_to(own, other);
            }
            for (own, other) in own.norms.iter_mut().zip(&other.norms) {
                own.add(other);
            }
        }
    }
}

/// What the backward pass needs of a layer; all `[tokens, hidden]` but for the last two, `[tokens, inner]`.
#[derive(Default)]
struct LayerTape {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Vec<f32>,
    attended: Vec<f32>,
    between: Vec<f32>,
    sums: Vec<f32>,
    out: Vec<f32>,
    raised: Vec<f32>,
    activated: Vec<f32>,
}

/// A group's values in the forward pass, and buffers for the backward pass.
#[derive(Default)]
pub(super) struct Tape {
    /// The sums of the embeddings, `[tokens, hidden]`: the input.
    pub(super) embedded: Vec<f32>,
    first: Vec<f32>,
    layers: Vec<LayerTape>,
    gradient: Vec<f32>,
    other: Vec<f32>,
    wide: Vec<f32>,
    heads: [Vec<f32>; 3],
}

impl Encoder {
    /// Zeros for every parameter.
    pub(super) fn gradients(&self) -> Result<Gradients> {
        let zeros = |layer: &Layer| {
            let mut weights = [const { Vec::new() }; MATRICES];
            for (zeros, weight) in weights.iter_mut().zip(&layer.weights) {
                let (out, input) = weight.shape()?;
                *zeros = vec![0.0; out * input];
            }
            let biases = layer.biases.each_ref().map(|bias| vec![0.0; bias.len()]);
            let norms = [(); 2].map(|()| Norm::zeros(self.width));
            Ok(LayerGradients { weights, biases, norms })
        };
        let layers = self.layers.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Gradients { norm: Norm::zeros(self.width), layers })
    }

    /// The last states `[tokens, hidden]` of what is embedded in `tape`.
    pub(super) fn forward<'a>(&self, pack: &Pack, tape: &'a mut Tape) -> Result<&'a [f32]> {
        let (tokens, width, inner) = (pack.total(), self.width, self.inner);
        let Tape { embedded, first, layers, .. } = tape;
        layers.resize_with(self.layers.len(), LayerTape::default);
        size(first, tokens * width);
        self.norm.forward(embedded, &[], &[], self.epsilon, first);
        let mut x = &first[..];
        for (layer, tape) in self.layers.iter().zip(layers.iter_mut()) {
            for (at, to) in [&mut tape.q, &mut tape.k, &mut tape.v].into_iter().enumerate() {
                size(to, tokens * width);
                layer.weights[QUERY + at].forward(x, tokens, to)?;
                add_bias(to, &layer.biases[QUERY + at]);
            }
            size(&mut tape.mixed, tokens * width);
            pack.forward(&tape.q, &tape.k, &tape.v, &mut tape.mixed);
            size(&mut tape.attended, tokens * width);
            size(&mut tape.between, tokens * width);
            layer.weights[OUTPUT].forward(&tape.mixed, tokens, &mut tape.attended)?;
            let (bias, norm) = (&layer.biases[OUTPUT], &layer.norms[ATTENDED]);
            norm.forward(&mut tape.attended, bias, x, self.epsilon, &mut tape.between);
            size(&mut tape.raised, tokens * inner);
            size(&mut tape.activated, tokens * inner);
            layer.weights[UP].forward(&tape.between, tokens, &mut tape.raised)?;
            gelu::forward(&tape.raised, &layer.biases[UP], &mut tape.activated);
            size(&mut tape.sums, tokens * width);
            size(&mut tape.out, tokens * width);
            layer.weights[DOWN].forward(&tape.activated, tokens, &mut tape.sums)?;
            let (bias, norm) = (&layer.biases[DOWN], &layer.norms[LAST]);
            norm.forward(&mut tape.sums, bias, &tape.between, self.epsilon, &mut tape.out);
            x = &tape.out;
        }
        Ok(x)
    }

    /// From the gradient of the last states, `[tokens, hidden]`, that of the sums of the embeddings, of the same shape;
    /// the parameters' are added to `grads`. `tape` is as [`Encoder::forward`] left it.
    pub(super) fn backward<'a>(
        &self,
        pack: &Pack,
        tape: &'a mut Tape,
        last: &[f32],
        grads: &mut Gradients,
    ) -> Result<&'a [f32]> {
        let (tokens, width, epsilon) = (pack.total(), self.width, self.epsilon);
        let Tape { embedded, first, layers, gradient, other, wide, heads } = tape;
        size(gradient, tokens * width);
        size(other, tokens * width);
        size(wide, tokens * self.inner);
        heads.iter_mut().for_each(|head| size(head, tokens * width));
        gradient.copy_from_slice(last);
        for at in (0..self.layers.len()).rev() {
            let (before, tape) = layers.split_at_mut(at);
            let x = before.last().map_or(&first[..], |before| &before.out);
            let (layer, tape, grads) = (&self.layers[at], &tape[0], &mut grads.layers[at]);
            let [dattended, dlast] = &mut grads.norms;
            let (weights, dweights, dbiases) =
                (&layer.weights, &mut grads.weights, &mut grads.biases);
            // `other` becomes the gradient of the last sums, which reaches `between` past the products, too.
            let given = (&tape.sums[..], &gradient[..]);
            layer.norms[LAST].backward(given, epsilon, other, dlast, &mut dbiases[DOWN]);
            weights[DOWN].gradient(other, &tape.activated, tokens, &mut dweights[DOWN])?;
            weights[DOWN].backward(other, tokens, wide, false)?;
            gelu::backward(&tape.raised, &layer.biases[UP], wide, &mut dbiases[UP]);
            weights[UP].gradient(wide, &tape.between, tokens, &mut dweights[UP])?;
            weights[UP].backward(wide, tokens, other, true)?;
            // `gradient` becomes that of the sums behind the attention, which reaches x past it, too.
            let given = (&tape.attended[..], &other[..]);
            let (norm, dbias) = (&layer.norms[ATTENDED], &mut dbiases[OUTPUT]);
            norm.backward(given, epsilon, gradient, dattended, dbias);
            weights[OUTPUT].gradient(gradient, &tape.mixed, tokens, &mut dweights[OUTPUT])?;
            weights[OUTPUT].backward(gradient, tokens, other, false)?;
            let [dq, dk, dv] = heads;
            pack.backward([&tape.q, &tape.k, &tape.v, other], [dq, dk, dv]);
            for (part, dhead) in heads.iter().enumerate() {
                add_columns(dhead, &mut dbiases[QUERY + part]);
                weights[QUERY + part].gradient(dhead, x, tokens, &mut dweights[QUERY + part])?;
                weights[QUERY + part].backward(dhead, tokens, gradient, true)?;
            }
        }
        self.norm.backward((embedded, gradient), epsilon, other, &mut grads.norm, &mut []);
        Ok(other)
    }
}

/// This many elements, whatever they are: each is written before it is read.
fn size(buffer: &mut Vec<f32>, elements: usize) {
    buffer.resize(elements, 0.0);
}

fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        add_to(row, bias);
    }
}

/// Neighbouring sequences of about [`GROUP_TOKENS`] tokens at most, or one; as many groups, or nearly, for each thread.
pub(super) fn groups(sequences: &[&[u32]], threads: usize) -> Vec<Range<usize>> {
    let total: usize = sequences.iter().map(|sequence| sequence.len()).sum();
    let each = total.div_ceil(GROUP_TOKENS * threads);
    let most = total.div_ceil((each * threads).max(1));
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (at, sequence) in sequences.iter().enumerate() {
        // A group ends with the sequence that reaches its share.
        let full = tokens >= most * groups.len();
        match groups.last_mut() {
            Some(group) if !full => group.end = at + 1,
            _ => groups.push(at..at + 1),
        }
        tokens += sequence.len();
    }
    groups
}

/// `[sequences, width]` of `[tokens, width]`.
pub(super) fn mean_rows(states: &[f32], pack: &Pack, width: usize) -> Vec<f32> {
    let mut means = vec![0.0; pack.lengths.len() * width];
    let mut rows = states.chunks_exact(width);
    for (mean, length) in means.chunks_exact_mut(width).zip(pack.lengths.iter()) {
        rows.by_ref().take(*length).for_each(|row| add_to(mean, row));
        mean.iter_mut().for_each(|value| *value /= *length as f32);
    }
    means
}

/// The backward pass of [`mean_rows`].
pub(super) fn spread_rows(dmeans: &[f32], pack: &Pack, width: usize, states: &mut Vec<f32>) {
    states.clear();
    for (dmean, length) in dmeans.chunks_exact(width).zip(pack.lengths.iter()) {
        for _ in 0..*length {
            states.extend(dmean.iter().map(|value| value / *length as f32));
        }
    }
}
