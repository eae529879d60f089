//! What is kept between the ways, and buffers that are kept from step to step.

/// What the backward pass needs of a layer, each `[tokens, ...]`.
#[derive(Default)]
pub(super) struct LayerTape {
    /// The input.
    pub(super) x: Vec<f32>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// Queries and keys before their norms, where they have some.
    pub(super) raw: [Vec<f32>; 2],
    pub(super) mixed: Vec<f32>,
    /// Behind the attention.
    pub(super) middle: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    /// Between the factors of the low-rank updates.
    pub(super) low: [Vec<f32>; 7],
}

/// A group's values, and buffers for both ways.
#[derive(Default)]
pub(in crate::train::model) struct Tape {
    pub(super) layers: Vec<LayerTape>,
    /// The last states, before the last norm.
    pub(super) last: Vec<f32>,
    /// Normalised states.
    pub(super) normal: Vec<f32>,
    /// What goes into the last projection.
    pub(super) inner: Vec<f32>,
    pub(super) back: Buffers,
}

/// Values of one layer in the backward pass.
#[derive(Default)]
pub(super) struct Buffers {
    /// Of the layer's output, then of its input.
    pub(super) gradient: Vec<f32>,
    /// `[tokens, hidden]`.
    pub(super) other: Vec<f32>,
    /// Of the attention's output, and through the head norms.
    pub(super) mixed: Vec<f32>,
    pub(super) heads: [Vec<f32>; 3],
    pub(super) inner: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    pub(super) low: Vec<f32>,
}
