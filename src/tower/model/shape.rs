//! From a pooled state to a vector.

use std::sync::Arc;

use crate::tower::model::head::Head;
use crate::tower::model::pool::normalize;
use crate::types::Embeddings;

/// How a pooled state becomes a vector.
#[derive(Clone)]
pub(crate) struct Shape {
    /// Elements of a state.
    pub(crate) hidden: usize,
    /// What the model does to it.
    pub(crate) head: Arc<Head>,
    /// Elements that are kept.
    pub(crate) dimensions: usize,
    pub(crate) normalize: bool,
}

impl Shape {
    /// One vector of each state, `[states, hidden]`.
    pub(crate) fn vectors(&self, states: &[f32]) -> Embeddings {
        let mut rows = Embeddings::with_capacity(self.dimensions, states.len() / self.hidden);
        let mut row = vec![0.; self.dimensions];
        for state in states.chunks_exact(self.hidden) {
            match self.head.is_empty() {
                true => row.copy_from_slice(&state[..self.dimensions]),
                false => row.copy_from_slice(&self.head.apply(state)[..self.dimensions]),
            }
            if self.normalize {
                normalize(&mut row);
            }
            rows.push(&row);
        }
        rows
    }
}
