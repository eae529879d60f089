//! Blocks of 8-bit integers that share a scale, as GGUF's Q8_0 has them.

use half::f16;

/// Elements of a block.
pub const BLOCK: usize = 32;

/// Bytes of a stored block: its scale in f16, then its integers.
const STORED: usize = 2 + BLOCK;

/// Rows of a weight matrix `[n, k]` as blocks along k; the last block of a row is filled up with zeros.
pub struct Blocks {
    /// `[n][blocks][BLOCK]`
    pub quants: Vec<i8>,
    /// `[n][blocks]`
    pub scales: Vec<f32>,
}

impl Blocks {
    /// Takes blocks as a GGUF file stores them, bit for bit; `None` where the bytes are not whole blocks.
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(STORED) {
            return None;
        }
        let mut quants = Vec::with_capacity(bytes.len() / STORED * BLOCK);
        let mut scales = Vec::with_capacity(bytes.len() / STORED);
        for block in bytes.as_chunks::<STORED>().0 {
            scales.push(f16::from_le_bytes([block[0], block[1]]).to_f32());
            quants.extend(block[2..].iter().map(|byte| *byte as i8));
        }
        Some(Self { quants, scales })
    }

    /// Quantises rows of `k` elements as llama.cpp's converter does: scale max |x| / 127 rounded to f16, integers
    /// rounded half away from zero by the unrounded scale.
    pub fn quantize(rows: &[f32], k: usize) -> Self {
        let blocks = k.div_ceil(BLOCK) * (rows.len() / k);
        let mut quants = Vec::with_capacity(blocks * BLOCK);
        let mut scales = Vec::with_capacity(blocks);
        for row in rows.chunks_exact(k) {
            for block in row.chunks(BLOCK) {
                let scale = block.iter().fold(0f32, |top, x| top.max(x.abs())) / 127.;
                let inverse = if scale > 0. { 1. / scale } else { 0. };
                scales.push(f16::from_f32(scale).to_f32());
                quants.extend(block.iter().map(|x| {
                    // `f32::round` is a library call on baseline x86-64; this is the same number.
                    let x = x * inverse;
                    (x + 0.499_999_97_f32.copysign(x)) as i8
                }));
                quants.extend(std::iter::repeat_n(0, BLOCK - block.len()));
            }
        }
        Self { quants, scales }
    }
}

/// A block of activations.
pub struct Quantized {
    pub scale: f32,
    /// Within -127..=127.
    pub quants: [i8; BLOCK],
    /// Of the quants.
    pub sum: i32,
}

/// Scale and inverse of a block whose largest magnitude is `top`.
#[inline(always)]
pub fn scales(top: f32) -> (f32, f32) {
    // Below that the inverse would overflow; the block counts as zero.
    let inverse = if top > 1e-35 { 127. / top } else { 0. };
    (if top <= 1e-35 { 0. } else { top / 127. }, inverse)
}

/// Quantises a block of activations: scale max |x| / 127, integers rounded half to even. A block that is not
/// finite gets a scale that is not.
#[inline(always)]
pub fn quantize(x: &[f32; BLOCK]) -> Quantized {
    // The magnitude's bits order as it does, and a maximum of integers compiles to vector instructions.
    let top = x.iter().fold(0u32, |top, x| top.max(x.to_bits() & 0x7fff_ffff));
    let (scale, inverse) = scales(f32::from_bits(top));
    let mut quants = [0i8; BLOCK];
    let mut sum = 0i32;
    for (quant, x) in quants.iter_mut().zip(x) {
        // Adding 1.5 * 2^23 leaves the rounded number in the low bits.
        let rounded = (x * inverse + 12_582_912.).to_bits() as i32;
        *quant = rounded as i8;
        sum += i32::from(rounded as i8);
    }
    Quantized { scale, quants, sum }
}

#[cfg(test)]
mod tests {
    use super::super::panels::tests::noise;
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        let mut noise = noise(7);
        (0..count).map(|_| noise().powi(3) * 0.3).collect()
    }

    #[test]
    fn activations_keep_within_half_a_step() {
        for block in values(3200).as_chunks::<BLOCK>().0 {
            let Quantized { scale, quants, sum } = quantize(block);
            assert_eq!(sum, quants.iter().map(|q| i32::from(*q)).sum::<i32>());
            assert!(quants.iter().any(|q| q.abs() == 127) && !quants.contains(&-128));
            for (x, q) in block.iter().zip(quants) {
                assert!((x - f32::from(q) * scale).abs() <= 0.5001 * scale);
            }
        }
        let zero = quantize(&[0.; BLOCK]);
        assert_eq!((zero.scale, zero.sum), (0., 0));
        let tiny = quantize(&[1e-40; BLOCK]);
        assert_eq!((tiny.scale, tiny.sum), (0., 0));
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut block = [1.; BLOCK];
            block[5] = odd;
            assert!(!quantize(&block).scale.is_finite());
        }
    }
}
