//! Arithmetic on whole rows. What is short enough for the compiler to put it into another package, where it would be
//! compiled at that one's level, says `inline(never)`.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::lanes;

/// Inner product, added up in a fixed order.
#[inline(never)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    lanes::dot(a, b)
}

/// `to += values`, as far as both go.
#[inline(never)]
pub fn add_to(to: &mut [f32], values: &[f32]) {
    lanes::add_to(to, values);
}

/// Sums of the columns of rows as wide as `sums`; row by row, so the threads do not decide the result.
#[inline(never)]
pub fn add_columns(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        lanes::add_to(sums, row);
    }
}

/// Mean of rows as wide as `to`, summed in order.
#[inline(never)]
pub fn mean(rows: &[f32], to: &mut [f32]) {
    to.fill(0.);
    add_columns(rows, to);
    let scale = 1. / (rows.len() / to.len()).max(1) as f32;
    to.iter_mut().for_each(|x| *x *= scale);
}

/// Inner product of a stored f16 row with an f32 query.
pub fn dot_f16(row: &[f16], query: &[f32]) -> f32 {
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
            lanes::dot(wide, query)
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
    fn mean_of_two_rows() {
        let mut to = [9.; 2];
        mean(&[1., 2., 5., 6.], &mut to);
        assert_eq!(to, [3., 4.]);
    }
}
