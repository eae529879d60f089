//! A fixed pseudo-random rotation: every element of what comes out is a sum over all of what goes in, so that the signs of
//! its elements say about as much of each.
//!
//! Four rounds of changed signs and a Walsh-Hadamard transform, scaled to keep lengths, over the largest power of two
//! elements that fit: the first ones in rounds 0 and 2, the last ones in rounds 1 and 3. The sign of element `i` in round
//! `r` is the highest bit of SplitMix64's output for the state `seed + r * dimensions + i`: set means negative.

/// The rotation of one seed and one number of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    dimensions: usize,
    /// By round: 1 or -1 for every element.
    signs: Vec<f32>,
}

const ROUNDS: usize = 4;

/// SplitMix64's output for a state.
fn mix(state: u64) -> u64 {
    let x = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Rotation {
    /// Of vectors of so many dimensions.
    pub fn new(seed: u64, dimensions: usize) -> Self {
        let negative = |at: usize| mix(seed.wrapping_add(at as u64)) >> 63 == 1;
        let sign = |at| if negative(at) { -1. } else { 1. };
        Self { dimensions, signs: (0..ROUNDS * dimensions).map(sign).collect() }
    }

    /// Rotates a vector in place.
    ///
    /// # Panics
    /// For a vector of other dimensions.
    pub fn apply(&self, x: &mut [f32]) {
        assert_eq!(x.len(), self.dimensions, "a vector of other dimensions");
        let Some(block) = self.dimensions.checked_ilog2().map(|log| 1 << log) else { return };
        let scale = 1. / (block as f32).sqrt();
        for (round, signs) in self.signs.chunks_exact(self.dimensions).enumerate() {
            x.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
            let at = if round % 2 == 0 { 0 } else { self.dimensions - block };
            let block = &mut x[at..at + block];
            transform(block);
            block.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// Walsh-Hadamard transform of a power of two numbers.
fn transform(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn products_stay_and_one_element_is_spread_over_all() {
        for dimensions in [1, 2, 3, 12, 100, 384, 768, 1_000] {
            let rotation = Rotation::new(7, dimensions);
            let vector = |salt: u64| -> Vec<f32> {
                let at = |at| mix(salt << 32 | at) as i64 as f32 / i64::MAX as f32;
                (0..dimensions as u64).map(at).collect()
            };
            let (mut a, mut b) = (vector(1), vector(2));
            let (ab, aa) = (dot(&a, &b), dot(&a, &a));
            rotation.apply(&mut a);
            rotation.apply(&mut b);
            let most = 1e-5 * dimensions as f32;
            assert!((dot(&a, &b) - ab).abs() < most && (dot(&a, &a) - aa).abs() < most);
            for at in [0, dimensions / 2, dimensions - 1] {
                let mut one = vec![0.; dimensions];
                one[at] = 1.;
                rotation.apply(&mut one);
                let peak = one.iter().fold(0f32, |peak, x| peak.max(x.abs()));
                assert!(peak < 8. / (dimensions as f32).sqrt(), "{dimensions}: {peak}");
            }
        }
        assert_ne!(Rotation::new(1, 100), Rotation::new(2, 100));
    }

    /// The values that other readers are given to compare with.
    #[test]
    fn the_rotation_is_the_one_of_every_file() {
        let mut x: Vec<f32> = (0..6).map(|at| at as f32).collect();
        Rotation::new(1, 6).apply(&mut x);
        assert_eq!(x, [4., -4.5, -2.25, 1.75, 1.75, 2.75]);
    }
}
