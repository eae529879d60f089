//! From token states to one vector per sequence.

use crate::types::{Embeddings, Pooling};

/// Which states of a sequence the caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// All, one row each.
    All,
    /// Their mean.
    Mean,
    /// The last token's only.
    Last,
}

impl From<Pooling> for Want {
    fn from(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Mean => Self::Mean,
            // The end-of-sequence token is the last one: the tokenizer has appended it.
            Pooling::LastToken | Pooling::Eos => Self::Last,
        }
    }
}

/// Scales to unit length; a vector of zeros, or one that is not finite, stays what it is, for the caller to see.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0. && norm.is_finite() {
        let scale = 1. / norm;
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
}

/// How a pooled state becomes a vector.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) hidden: usize,
    /// Elements that are kept.
    pub(crate) dimensions: usize,
    pub(crate) normalize: bool,
}

impl Shape {
    /// One vector of each state, `[states, hidden]`.
    pub(crate) fn vectors(self, states: &[f32]) -> Embeddings {
        let mut rows = Embeddings::with_capacity(self.dimensions, states.len() / self.hidden);
        let mut row = vec![0.; self.dimensions];
        for state in states.chunks_exact(self.hidden) {
            row.copy_from_slice(&state[..self.dimensions]);
            if self.normalize {
                normalize(&mut row);
            }
            rows.push(&row);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_length() {
        let mut to = [3., 4.];
        normalize(&mut to);
        assert_eq!(to, [0.6, 0.8]);
        let mut zero = [0.; 2];
        normalize(&mut zero);
        assert_eq!(zero, [0.; 2]);
        let mut odd = [f32::NAN, 1.];
        normalize(&mut odd);
        assert!(odd[0].is_nan() && odd[1] == 1.);
    }
}
