//! InfoNCE over in-batch and hard negatives, with known false negatives left out.

use candle_core::{D, DType, Result, Tensor};

/// One contrastive batch: `queries` rows against `candidates` columns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contrast {
    /// Column of each query's own document.
    pub(super) positive: Vec<u32>,
    /// Per query the columns that also answer it, so they must not count as negatives.
    pub(super) masked: Vec<Vec<u32>>,
    /// Weight of each query.
    pub(super) weights: Vec<f32>,
    /// Number of columns.
    pub(super) candidates: usize,
}

/// The weighted mean of `-ln softmax(q d^T / temperature)[positive]` and the share of queries whose own document
/// scores highest. `queries` `[n, d]`, `documents` `[candidates, d]`, both of unit length.
pub(super) fn info_nce(
    queries: &Tensor,
    documents: &Tensor,
    contrast: &Contrast,
    temperature: f64,
) -> Result<(Tensor, f32)> {
    let device = queries.device();
    let (rows, columns) = (contrast.positive.len(), contrast.candidates);
    let mut mask = vec![0f32; rows * columns];
    for (row, masked) in mask.chunks_exact_mut(columns).zip(&contrast.masked) {
        for &column in masked {
            // Large enough to vanish in the softmax; minus infinity would turn into NaN.
            row[column as usize] = -1e9;
        }
    }
    let mask = Tensor::from_vec(mask, (rows, columns), device)?;
    let logits = ((queries.matmul(&documents.t()?)? / temperature)? + mask)?;
    let log = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
    let own = Tensor::from_slice(&contrast.positive, (rows, 1), device)?;
    let own = log.gather(&own, 1)?.squeeze(1)?;
    let total: f32 = contrast.weights.iter().sum();
    let weights: Vec<f32> =
        contrast.weights.iter().map(|w| -w / total.max(f32::MIN_POSITIVE)).collect();
    let loss = (own * Tensor::from_vec(weights, rows, device)?)?.sum_all()?;
    let best = logits.argmax(1)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    let hits = best.iter().zip(&contrast.positive).filter(|(a, b)| a == b).count();
    Ok((loss, hits as f32 / rows.max(1) as f32))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn masked_candidates_do_not_count() {
        let device = Device::Cpu;
        let q = Var::from_vec(vec![1f32, 0., 0., 1.], (2, 2), &device).unwrap();
        let d = Tensor::from_vec(vec![1f32, 0., 0., 1., 1., 0.], (3, 2), &device).unwrap();
        let mut contrast = Contrast {
            positive: vec![0, 1],
            masked: vec![vec![2], vec![]],
            weights: vec![1.0, 3.0],
            candidates: 3,
        };
        let (loss, hits) = info_nce(&q, &d, &contrast, 1.0).unwrap();
        let e = 1f32.exp();
        let first = -(e / (e + 1.0)).ln();
        let second = -(e / (e + 2.0)).ln();
        let expected = (first + 3.0 * second) / 4.0;
        assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
        assert_eq!(hits, 1.0);
        let grads = loss.backward().unwrap();
        assert!(grads.get(&q).unwrap().to_vec2::<f32>().unwrap()[0][0].is_finite());
        contrast.masked[0].clear();
        let (unmasked, _) = info_nce(&q, &d, &contrast, 1.0).unwrap();
        assert!(unmasked.to_scalar::<f32>().unwrap() > expected);
    }
}
