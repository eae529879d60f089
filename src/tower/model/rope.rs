//! Rotary position tables (non-interleaved halves, the Hugging Face order).

use crate::tower::DecoderConfig;

/// Cosines and sines `[positions, head_dim / 2]`.
pub(crate) struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Tables for positions `0..positions`. Angles are rounded to f32 as the models were trained with.
    pub(crate) fn new(config: &DecoderConfig, positions: usize) -> Self {
        let factors = config.rope_factors.as_ref();
        let frequencies = frequencies(config.rope_theta, config.head_dim, |i| {
            factors.map_or(1., |factors| factors[i])
        });
        let mut rope = Self::of(&frequencies, positions);
        for x in rope.cos.iter_mut().chain(&mut rope.sin) {
            *x *= config.rope_scale;
        }
        rope
    }

    /// Those of sliding layers, where they have their own.
    pub(crate) fn of_sliding(config: &DecoderConfig, positions: usize) -> Option<Self> {
        let theta = config.sliding.as_ref()?.rope_theta?;
        Some(Self::of(&frequencies(theta, config.head_dim, |_| 1.), positions))
    }

    /// The same of given angles, by which a position more turns each pair.
    pub(crate) fn of(frequencies: &[f32], positions: usize) -> Self {
        let angles =
            || (0..positions).flat_map(move |p| frequencies.iter().map(move |f| p as f32 * f));
        let cos = angles().map(|angle| f64::from(angle).cos() as f32).collect();
        let sin = angles().map(|angle| f64::from(angle).sin() as f32).collect();
        Self { cos, sin }
    }

    /// Both tables, `[positions, head_dim / 2]`.
    pub(crate) fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }
}

/// Angles by which a position more turns each pair of a head, each divided by its own factor.
fn frequencies(theta: f64, head_dim: usize, factor: impl Fn(usize) -> f32) -> Vec<f32> {
    let exponent = |i: usize| 2. * i as f64 / head_dim as f64;
    (0..head_dim / 2).map(|i| (1. / theta.powf(exponent(i))) as f32 / factor(i)).collect()
}
