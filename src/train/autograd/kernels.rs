//! f32 loops on the CPU under the differentiable operations.

use gemm::Parallelism;

/// A matrix inside a slice: element (i, j) lies at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// Row-major with `stride` elements from row to row.
    pub(super) fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: stride, column_stride: 1 }
    }

    /// The transpose.
    pub(super) fn t(self) -> Self {
        Self { data: self.data, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    fn covers(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// A matrix that a product is written to: row-major with `stride` elements from row to row.
pub(super) struct Target<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) stride: usize,
    /// Add to what is there instead of overwriting it.
    pub(super) accumulate: bool,
}

/// `target = scale * lhs x rhs` (or `+=`) for `lhs` `[m, k]` and `rhs` `[k, n]`.
pub(super) fn product(
    target: Target<'_>,
    (m, n, k): (usize, usize, usize),
    scale: f32,
    lhs: View<'_>,
    rhs: View<'_>,
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(lhs.covers(m, k) && rhs.covers(k, n), "operand of a product is too short");
    assert!((m - 1) * target.stride + n <= target.data.len() && n <= target.stride.max(n));
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: the assertions above keep every index of the three matrices inside their slices; `target` is
    // borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.data.as_mut_ptr(),
            1,
            target.stride as isize,
            target.accumulate,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Sums of the columns of rows as wide as `sums`; row by row, so the threads do not decide the result.
pub(crate) fn add_columns(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        add_to(sums, row);
    }
}

/// `to += values`, as far as both go.
#[inline(always)]
pub(crate) fn add_to(to: &mut [f32], values: &[f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}

const LANES: usize = 16;

/// Sum with sixteen running parts: vector code with a fixed order.
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    for values in chunks {
        for lane in 0..LANES {
            sums[lane] += values[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// [`sum`] of the products of two rows.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}
