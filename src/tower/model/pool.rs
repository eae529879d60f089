//! From token states to one vector per sequence.

use crate::kernel::mean;
use crate::types::Pooling;

/// Which states of a sequence the caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// All, one row each.
    All,
    /// The first token's only.
    First,
    /// The last token's only.
    Last,
    /// One row made of all of them.
    Pooled(Pool),
}

/// How one row is made of all states of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Their mean.
    Mean,
    /// Their sum over the square root of their number.
    MeanSqrtLen,
    /// Their mean, the n-th counted n times.
    WeightedMean,
    /// The greatest, element by element.
    Max,
}

impl From<Pooling> for Want {
    fn from(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Mean => Self::Pooled(Pool::Mean),
            Pooling::MeanSqrtLen => Self::Pooled(Pool::MeanSqrtLen),
            Pooling::WeightedMean => Self::Pooled(Pool::WeightedMean),
            Pooling::Max => Self::Pooled(Pool::Max),
            Pooling::Cls => Self::First,
            // The end-of-sequence token is the last one: the tokenizer has appended it.
            Pooling::LastToken | Pooling::Eos => Self::Last,
        }
    }
}

impl Pool {
    /// Makes `to` of the states of one sequence, each as wide as it is.
    pub(crate) fn apply(self, states: &[f32], to: &mut [f32]) {
        let rows = states.chunks_exact(to.len());
        let count = rows.len().max(1) as f32;
        match self {
            Self::Mean => mean(states, to),
            Self::MeanSqrtLen => {
                mean(states, to);
                to.iter_mut().for_each(|x| *x *= count.sqrt());
            }
            Self::WeightedMean => {
                to.fill(0.);
                for (at, row) in rows.enumerate() {
                    let weight = (at + 1) as f32 / (count * (count + 1.) / 2.);
                    to.iter_mut().zip(row).for_each(|(to, x)| *to += weight * x);
                }
            }
            Self::Max => {
                to.fill(f32::NEG_INFINITY);
                for row in rows {
                    to.iter_mut().zip(row).for_each(|(to, x)| *to = to.max(*x));
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_become_one_row() {
        let states = [1., -4., 3., 2., 5., -7.];
        for (pool, expected) in [
            (Pool::Mean, [3., -3.]),
            (Pool::MeanSqrtLen, [9. / 3f32.sqrt(), -9. / 3f32.sqrt()]),
            (Pool::WeightedMean, [(1. + 6. + 15.) / 6., (-4. + 4. - 21.) / 6.]),
            (Pool::Max, [5., 2.]),
        ] {
            let mut row = [0.; 2];
            pool.apply(&states, &mut row);
            let near = row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near, "{pool:?}: {row:?}");
            pool.apply(&states[..2], &mut row);
            assert_eq!(row, states[..2], "{pool:?} of one state");
        }
    }

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
