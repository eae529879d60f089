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
        let half = config.head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = 2. * i as f64 / config.head_dim as f64;
                let factor = config.rope_factors.as_ref().map_or(1., |factors| factors[i]);
                (1. / config.rope_theta.powf(exponent)) as f32 / factor
            })
            .collect();
        let angles = || {
            let frequencies = &frequencies;
            (0..positions).flat_map(move |p| frequencies.iter().map(move |f| p as f32 * f))
        };
        let cos = angles().map(|angle| f64::from(angle).cos() as f32).collect();
        let sin = angles().map(|angle| f64::from(angle).sin() as f32).collect();
        Self { cos, sin }
    }

    /// Both tables, `[positions, head_dim / 2]`.
    pub(crate) fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }
}
