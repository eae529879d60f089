//! Centred, rotated sign codes: the quantisation `b1r`.
//!
//! A unit vector `x` is stored as the signs of `R (x - m)`. Subtracting `m`, the mean of a sample or a share of it, leaves
//! what tells vectors apart, and the rotation `R` spreads it evenly over all bits. A query `q` keeps its numbers: with the
//! signs `s` (1 or -1) of a stored vector, `q . x` is about `q . m + gain * (R q) . s`. That errs less than counting bits
//! that differ between two rows of signs, which is what a reader without these numbers does. Where `m . x` hardly varies,
//! subtracting `m` from the query as well leaves less for the signs to err about: the share of it that does best is
//! fitted too.
//!
//! Sources: Charikar, STOC 2002 (signs); Gao and Long, RaBitQ, arXiv 2405.12497 (a query that is not cut to signs).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fit::Fit;
use crate::kernel::distance::Query;
use crate::kernel::{Rotation, dot};
use crate::types::Embeddings;

/// Any number will do; it is recorded because readers must take the same.
const SEED: u64 = 22;
/// The mean's elements are whole multiples of one over this: exact in every language and short in JSON.
const UNIT: f32 = 32_768.0;
/// Shares of the mean that are tried.
const SHARES: [f32; 5] = [1.0, 0.75, 0.5, 0.25, 0.0];

/// How `b1r` makes bits of a vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignCodes {
    /// Of the rotation.
    pub seed: u64,
    /// What is subtracted: the mean of the sample or a share of it, in 1/32768.
    pub mean: Vec<i16>,
    /// Which share of that is also subtracted from a query.
    pub query_share: f32,
    /// What the product of a rotated query with a row of signs is multiplied by.
    pub gain: f32,
}

impl SignCodes {
    /// Without a sample: nothing is subtracted, and numbers are taken to be spread normally.
    pub fn unfitted(dimensions: usize) -> Self {
        let gain = (std::f32::consts::FRAC_PI_2 / dimensions.max(1) as f32).sqrt();
        Self { seed: SEED, mean: vec![0; dimensions], query_share: 0.0, gain }
    }

    /// Of a sample of unit vectors: as much of its mean is subtracted as leaves the best order of near neighbours. All
    /// of it gives bits that tell most, but then vectors differ in length and bits do not say so.
    pub(super) fn fit(fit: &Fit, units: &Embeddings) -> Self {
        let mut sums = vec![0f64; units.dimensions()];
        for row in units.rows() {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let mut best: Option<(f64, Self)> = None;
        for share in SHARES {
            let rounded = |sum: &f64| {
                let mean = f64::from(share * UNIT) * sum / units.len().max(1) as f64;
                mean.round_ties_even().clamp(-32_767.0, 32_767.0) as i16
            };
            let mean = sums.iter().map(rounded).collect();
            let mut codes = Self { mean, ..Self::unfitted(units.dimensions()) };
            // The query can do without it only where all is subtracted: otherwise every estimate would be off.
            let of_query = if share == 1.0 { &SHARES[..] } else { &[0.0] };
            let loss = codes.set_query(fit, units, of_query);
            // From all of it down; less has to be clearly better, so noise cannot pick it.
            if best.as_ref().is_none_or(|(least, _)| loss < least * 0.98) {
                best = Some((loss, codes));
            }
        }
        best.map_or_else(|| Self::unfitted(units.dimensions()), |(_, codes)| codes)
    }

    /// Sets what a query needs for a sample; how far estimates of its near neighbours' cosines are off.
    fn set_query(&mut self, fit: &Fit, units: &Embeddings, shares: &[f32]) -> f64 {
        let mut turn = Turn::new(self);
        let (mut squares, mut sizes) = (0f64, 0f64);
        let mut signs = Embeddings::with_capacity(units.dimensions(), units.len());
        let mut turned = signs.clone();
        let mut row_of_signs = Vec::new();
        for row in units.rows() {
            let centred = turn.centred(row);
            for x in centred {
                squares += f64::from(x * x);
                sizes += f64::from(x.abs());
            }
            row_of_signs.clear();
            row_of_signs.extend(centred.iter().map(|x| if *x > 0.0 { 1.0 } else { -1.0 }));
            signs.push(&row_of_signs);
            turned.push(turn.rotated(row, 0.0));
        }
        // Vectors that all equal their mean leave nothing to scale.
        if sizes > 0.0 && squares > 0.0 {
            self.gain = (squares / sizes) as f32;
        }
        let mean = turn.mean.clone();
        let mean = turn.rotated(&mean, 0.0);
        let of_mean: Vec<f32> = signs.rows().map(|row| dot(mean, row)).collect();
        let mut best = f64::INFINITY;
        for share in shares {
            let loss = fit.loss(|query, other| {
                dot(turned.row(query), signs.row(other)) - share * of_mean[other]
            });
            if loss < best * 0.98 {
                (best, self.query_share) = (loss, *share);
            }
        }
        best
    }

    /// All that decides codes and what a search makes of them, to be hashed.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.seed.to_le_bytes().to_vec();
        bytes.extend([self.query_share, self.gain].iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend(self.mean.iter().flat_map(|x| x.to_le_bytes()));
        bytes
    }

    /// Whether vectors of so many dimensions can be encoded by them.
    pub fn is_of(&self, dimensions: usize) -> bool {
        self.mean.len() == dimensions
            && self.query_share.is_finite()
            && self.gain.is_finite()
            && self.gain > 0.0
    }
}

/// [`SignCodes`] at work.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    rotation: Rotation,
    mean: Vec<f32>,
    query_share: f32,
    gain: f32,
    turned: Vec<f32>,
}

impl Turn {
    pub fn new(codes: &SignCodes) -> Self {
        let mean: Vec<f32> = codes.mean.iter().map(|x| f32::from(*x) / UNIT).collect();
        let rotation = Rotation::new(codes.seed, mean.len());
        Self {
            rotation,
            mean,
            query_share: codes.query_share,
            gain: codes.gain,
            turned: Vec::new(),
        }
    }

    /// A vector without the mean, rotated: its signs are the code. The result lives until the next call.
    pub fn centred(&mut self, unit: &[f32]) -> &[f32] {
        self.rotated(unit, 1.0)
    }

    /// A vector without a share of the mean, rotated. The result lives until the next call.
    fn rotated(&mut self, unit: &[f32], share: f32) -> &[f32] {
        self.turned.clear();
        self.turned.extend(unit.iter().zip(&self.mean).map(|(x, mean)| x - share * mean));
        self.rotation.apply(&mut self.turned);
        &self.turned
    }

    /// Makes a unit vector the query: the distances are one less the cosine as far as the signs tell.
    pub fn ask(&mut self, unit: &[f32], query: &mut Query) {
        let (start, share, gain) = (1.0 - dot(unit, &self.mean), self.query_share, self.gain);
        query.set_signs(self.rotated(unit, share), start, gain);
    }
}

/// Bits of the numbers above 0, the first in the lowest of the first byte.
pub(super) fn pack_signs(numbers: &[f32], to: &mut Vec<u8>) {
    to.clear();
    to.extend(numbers.chunks(8).map(|eight| {
        let bits = eight.iter().enumerate();
        bits.fold(0u8, |byte, (at, x)| byte | u8::from(*x > 0.0) << at)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::rows::unit;
    use crate::types::SplitMix64;

    /// Unit vectors about a common direction, as those of language models are.
    fn sample(rows: usize, dimensions: usize) -> Embeddings {
        let mut random = SplitMix64::new(5);
        let mut next = || (random.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        let mut units = Embeddings::with_capacity(dimensions, rows);
        for _ in 0..rows {
            let row: Vec<f32> = (0..dimensions).map(|at| next() + (at % 3) as f32).collect();
            units.push(&unit(&row).unwrap());
        }
        units
    }

    #[test]
    fn estimates_are_near_the_cosine_and_off_in_both_directions() {
        let units = sample(600, 384);
        let codes = SignCodes::fit(&Fit::new(&units), &units);
        assert!(codes.is_of(384) && !codes.is_of(383));
        let mut turn = Turn::new(&codes);
        let (mut off, mut squares, mut count) = (0f64, 0f64, 0f64);
        for at in 0..300 {
            let (query, row) = (units.row(at), units.row(at + 300));
            let signs: Vec<f32> = turn.centred(row).iter().map(|x| x.signum()).collect();
            let asked = turn.rotated(query, codes.query_share).to_vec();
            let told = dot(query, &turn.mean) + codes.gain * dot(&asked, &signs);
            let apart = f64::from(told - dot(query, row));
            (off, squares, count) = (off + apart, squares + apart * apart, count + 1.0);
        }
        let (off, deviation) = (off / count, (squares / count).sqrt());
        // Deviations of what is left after centring, some 0.4 of the length, by 384 bits.
        assert!(
            off.abs() < 3.0 * deviation / count.sqrt() && deviation < 0.03,
            "{off} {deviation}"
        );
    }

    #[test]
    fn no_sample_and_equal_vectors_leave_codes_that_work() {
        let none = SignCodes::unfitted(16);
        assert!(none.is_of(16) && none.mean == [0; 16]);
        let mut same = Embeddings::with_capacity(4, 3);
        (0..3).for_each(|_| same.push(&[0.5; 4]));
        let codes = SignCodes::fit(&Fit::new(&same), &same);
        assert!(codes.is_of(4) && codes.mean == [16_384; 4], "{codes:?}");
        assert_eq!(Turn::new(&codes).centred(&[0.5; 4]), [0.0; 4]);
    }

    #[test]
    fn signs_pack_from_the_lowest_bit() {
        let mut bytes = vec![7];
        pack_signs(&[1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], &mut bytes);
        assert_eq!(bytes, [0b101, 1]);
    }
}
