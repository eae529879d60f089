//! A decoder's layers on slices, forward and back: buffers are kept from step to step, gradients are added up where
//! they belong. candle's graph makes a fresh tensor for every value and two for every gradient, which takes longer than
//! the products. The unit tests compare with the same layers composed of candle's operations.

mod backward;
mod forward;
mod projection;
mod tape;

pub(super) use backward::Sums;
pub(super) use projection::{Lora, Projection};
pub(super) use tape::Tape;

use candle_core::{Result, Tensor};

use crate::kernel::Window;
use crate::train::autograd::ops::with_values;
use crate::types::Pooling;

/// Numbers of a tensor that is small.
pub(super) struct Values {
    pub(super) numbers: Vec<f32>,
    /// Whether a gradient is wanted.
    learns: bool,
}

impl Values {
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let numbers = with_values(tensor, |values| Ok(values.to_vec()))?;
        Ok(Self { numbers, learns: tensor.is_variable() })
    }

    /// Zeros for its gradient, or none.
    fn zeros(&self) -> Vec<f32> {
        vec![0.0; if self.learns { self.numbers.len() } else { 0 }]
    }
}

/// What a layer multiplies with.
pub(super) struct Layer {
    pub(super) input_norm: Values,
    pub(super) post_norm: Values,
    /// Query, key, value, output, gate, up, down.
    pub(super) projections: [Projection; 7],
    /// Of every head's queries and keys.
    pub(super) head_norms: Option<[Values; 2]>,
    /// Which tokens a token sees.
    pub(super) window: Window,
}

const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const OUTPUT: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;

/// A decoder's layers, with the parameters that they have in one step.
pub(super) struct Layers {
    pub(super) width: usize,
    pub(super) epsilon: f32,
    pub(super) layers: Vec<Layer>,
    /// Behind the last layer.
    pub(super) norm: Values,
    pub(super) pooling: Pooling,
    /// Layers below learn nothing and need no backward pass.
    pub(super) first: usize,
    /// Whether the embeddings learn.
    pub(super) embeddings_learn: bool,
}

/// This many elements, whatever they are: each is written before it is read.
pub(super) fn size(buffer: &mut Vec<f32>, elements: usize) {
    buffer.resize(elements, 0.0);
}
