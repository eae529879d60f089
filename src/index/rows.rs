//! Vector arithmetic on rows: unit length, dot products (f32 and f16), the k best.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use half::f16;
use half::slice::HalfFloatSliceExt;

/// One search hit: key and cosine similarity (higher is better).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The vector's key.
    pub key: u64,
    /// Cosine similarity; exact (f16 rounding) where rescored.
    pub score: f32,
}

/// `row` scaled to unit length, or what is wrong with it (to follow "the vector of ...").
pub(super) fn unit(row: &[f32]) -> Result<Vec<f32>, &'static str> {
    // f64: a large but finite row must not overflow, and 4,096 squares lose nothing.
    let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if !squares.is_finite() {
        return Err("has a non-finite element");
    }
    let norm = squares.sqrt();
    if norm == 0.0 {
        return Err("is zero, which has no direction to compare by");
    }
    Ok(row.iter().map(|x| (f64::from(*x) / norm) as f32).collect())
}

/// Inner product in a fixed order of additions.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Inner product of a stored f16 row with an f32 query.
pub(super) fn dot_f16(row: &[f16], query: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        // SAFETY: the three features were just detected.
        return unsafe { dot_f16_avx2(row, query) };
    }
    let mut wide = [0f32; 64];
    row.chunks(64)
        .zip(query.chunks(64))
        .map(|(row, query)| {
            let wide = &mut wide[..row.len()];
            row.convert_to_f32_slice(wide);
            dot(wide, query)
        })
        .sum()
}

/// Four accumulators of eight lanes hide the latency of the fused multiply-add.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_f16_avx2(row: &[f16], query: &[f32]) -> f32 {
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm256_add_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_setzero_ps, _mm256_storeu_ps,
    };
    const STEP: usize = 32;
    let mut sums = [_mm256_setzero_ps(); 4];
    let (row_chunks, query_chunks) = (row.chunks_exact(STEP), query.chunks_exact(STEP));
    // The rest goes through the same lanes, filled up with zeros.
    let (mut row_rest, mut query_rest) = ([f16::ZERO; STEP], [0f32; STEP]);
    let (row_tail, query_tail) = (row_chunks.remainder(), query_chunks.remainder());
    row_rest[..row_tail.len()].copy_from_slice(row_tail);
    query_rest[..query_tail.len()].copy_from_slice(query_tail);
    let rest = (!row_tail.is_empty()).then_some((&row_rest[..], &query_rest[..]));
    for (x, y) in row_chunks.zip(query_chunks).chain(rest) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: both chunks hold 32 elements and `lane` is below 4, so 8 more lie ahead of each pointer.
            let (halves, floats) = unsafe {
                let halves = _mm_loadu_si128(x.as_ptr().add(8 * lane).cast());
                (halves, _mm256_loadu_ps(y.as_ptr().add(8 * lane)))
            };
            *sum = _mm256_fmadd_ps(_mm256_cvtph_ps(halves), floats, *sum);
        }
    }
    let total = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let mut lanes = [0f32; 8];
    // SAFETY: `lanes` holds the eight floats of the register.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
    lanes.iter().sum::<f32>()
}

/// Best first: higher score, then lower key.
pub(super) fn best_first(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then(a.key.cmp(&b.key))
}

/// Keeps the `k` best hits of a stream.
pub(super) struct Best {
    k: usize,
    heap: BinaryHeap<Worst>,
}

struct Worst(Hit);

impl PartialEq for Worst {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Worst {}
impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        best_first(&self.0, &other.0)
    }
}

impl Best {
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    pub fn push(&mut self, hit: Hit) {
        if self.heap.len() < self.k {
            self.heap.push(Worst(hit));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && best_first(&hit, &worst.0) == Ordering::Less
        {
            *worst = Worst(hit);
        }
    }

    /// The score that a further hit has to reach, once there are k.
    pub fn floor(&self) -> Option<f32> {
        self.heap.peek().filter(|_| self.heap.len() >= self.k).map(|worst| worst.0.score)
    }

    pub fn into_sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_agree_with_the_plain_sum_at_odd_lengths() {
        for length in [1, 7, 16, 31, 32, 33, 100, 1_000] {
            let a: Vec<f32> = (0..length).map(|x| ((x * 37) % 19) as f32 / 19.0 - 0.5).collect();
            let b: Vec<f32> = (0..length).map(|x| ((x * 53) % 23) as f32 / 23.0 - 0.5).collect();
            let half: Vec<f16> = a.iter().map(|x| f16::from_f32(*x)).collect();
            let plain: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(x * y)).sum();
            assert!((f64::from(dot(&a, &b)) - plain).abs() < 1e-4, "{length}");
            let rounded: f64 = half.iter().zip(&b).map(|(x, y)| f64::from(x.to_f32() * y)).sum();
            assert!((f64::from(dot_f16(&half, &b)) - rounded).abs() < 1e-4, "{length}");
        }
    }

    #[test]
    fn unit_refuses_what_has_no_direction() {
        assert_eq!(unit(&[3.0, 4.0]).unwrap(), [0.6, 0.8]);
        assert_eq!(unit(&[f32::MAX, 0.0]).unwrap(), [1.0, 0.0]);
        assert!(unit(&[0.0, 0.0]).is_err() && unit(&[f32::INFINITY, 1.0]).is_err());
    }

    #[test]
    fn best_keeps_the_highest_and_breaks_ties_by_key() {
        let mut best = Best::new(3);
        for (key, score) in [(9, 0.5), (2, 0.5), (4, 0.9), (1, 0.1), (3, 0.5)] {
            best.push(Hit { key, score });
        }
        let keys: Vec<u64> = best.into_sorted().iter().map(|hit| hit.key).collect();
        assert_eq!(keys, [4, 2, 3]);
    }
}
