//! Matrices turned over their diagonal.

use super::simd::{Isa, Kernel, Simd, kernel};

/// Row-major `[columns, rows]` of a row-major `[rows, columns]`.
pub fn transposed(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert!(matrix.len() == rows * columns, "a matrix [{rows}, {columns}]");
    let mut to = vec![0f32; matrix.len()];
    transpose(Isa::best(), matrix, rows, columns, &mut to);
    to
}

kernel! {
    fn transpose<'a, S: Simd>(
        isa: Isa, matrix: &'a [f32], rows: usize, columns: usize, to: &'a mut [f32],
    ) {
        turn::<S>(matrix, columns, to, rows);
    }
}

/// Element (i, j) of `matrix`, whose rows are `columns` long, to (j, i) of `to`, whose rows are `stride` long: at least as many
/// as `matrix` has rows. Behind those may stand zeros, as far as there is room for the last vector.
#[inline(always)]
pub fn turn<S: Simd>(matrix: &[f32], columns: usize, to: &mut [f32], stride: usize) {
    let rows = matrix.len() / columns;
    assert!(rows <= stride && columns * stride <= to.len(), "room for a turned matrix");
    for row in (0..rows).step_by(S::LANES) {
        let count = S::LANES.min(rows - row);
        let room = stride - row >= S::LANES;
        let whole = if room { columns - columns % S::LANES } else { 0 };
        for column in (0..whole).step_by(S::LANES) {
            // SAFETY: below `Isa::run`; `count` rows from `row` and LANES columns from `column` lie inside the matrix, and the
            // square that they become inside `to`, whose rows have room for LANES elements from `row`.
            unsafe {
                let mut square = [S::splat(0.0); 16];
                for (at, line) in square.iter_mut().enumerate().take(count) {
                    *line = S::load(matrix.as_ptr().add((row + at) * columns + column));
                }
                S::interleave(&square, to.as_mut_ptr().add(column * stride + row), stride);
            }
        }
        for row in row..row + count {
            for column in whole..columns {
                to[column * stride + row] = matrix[row * columns + column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_matrix_has_its_columns_as_rows() {
        for (rows, columns) in [(1, 1), (16, 32), (37, 50), (3, 70), (70, 3)] {
            let matrix: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let turned = transposed(&matrix, rows, columns);
            for (at, value) in turned.iter().enumerate() {
                assert_eq!(*value, matrix[at % rows * columns + at / rows]);
            }
        }
    }
}
