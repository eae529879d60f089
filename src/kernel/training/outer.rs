//! Sums of outer products of rows: the gradient of a matrix with few rows, without packing anything.

use super::super::simd::{Isa, Kernel, Simd, kernel};

/// Rows of the result that are summed together.
const ROWS: usize = 8;

/// `sums += left^T right` for row-major `left` `[rows, few]`, `right` `[rows, many]` and `sums` `[few, many]`, each element
/// summed in the order of the rows.
pub fn add_outer(left: &[f32], few: usize, right: &[f32], many: usize, sums: &mut [f32]) {
    assert!(few > 0 && many > 0 && sums.len() == few * many, "shape of the sums");
    assert!(left.len() / few == right.len() / many, "rows of an outer product");
    add_some(Isa::best(), left, few, right, many, sums);
}

kernel! {
    /// [`add_outer`]
    fn add_some<'a, S: Simd>(
        isa: Isa, left: &'a [f32], few: usize, right: &'a [f32], many: usize, sums: &'a mut [f32],
    ) {
        let rows = right.len() / many;
        assert!(left.len() == rows * few && right.len() == rows * many && sums.len() == few * many);
        let whole = many - many % S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            for first in (0..few).step_by(ROWS) {
                let count = ROWS.min(few - first);
                // SAFETY: below `Isa::run`; the assertions bound every index: row < rows, at + LANES <= many, first + i < few.
                // Rows of the result behind the last are computed as the last and not written.
                unsafe {
                    let mut acc = [S::splat(0.0); ROWS];
                    let places: [usize; ROWS] = std::array::from_fn(|i| first + i.min(count - 1));
                    for row in 0..rows {
                        let vector = S::load(right.as_ptr().add(row * many + at));
                        let start = left.as_ptr().add(row * few);
                        for (acc, place) in acc.iter_mut().zip(places) {
                            *acc = S::fma(S::splat(*start.add(place)), vector, *acc);
                        }
                    }
                    for (i, acc) in acc.into_iter().enumerate().take(count) {
                        let to = sums.as_mut_ptr().add((first + i) * many + at);
                        S::store(to, S::add(S::load(to), acc));
                    }
                }
            }
        }
        for (left, right) in left.chunks_exact(few).zip(right.chunks_exact(many)) {
            for (place, value) in left.iter().enumerate() {
                for at in whole..many {
                    sums[place * many + at] += value * right[at];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_the_formula_on_every_instruction_set() {
        let value = |i: usize| ((i * 7919 % 2003) as f32 - 1001.) / 1500.;
        for (rows, few, many) in [(5, 3, 40), (7, 16, 32), (3, 9, 7), (0, 2, 16)] {
            let left: Vec<f32> = (0..rows * few).map(value).collect();
            let right: Vec<f32> = (0..rows * many).map(|i| value(i + 5)).collect();
            for isa in Isa::available() {
                let mut sums = vec![1f32; few * many];
                add_some(isa, &left, few, &right, many, &mut sums);
                for (at, sum) in sums.iter().enumerate() {
                    let (i, j) = (at / many, at % many);
                    let exact: f32 =
                        (0..rows).map(|row| left[row * few + i] * right[row * many + j]).sum();
                    assert!((sum - 1.0 - exact).abs() < 1e-5, "{isa:?} {rows} {few} {many}");
                }
            }
        }
    }
}
