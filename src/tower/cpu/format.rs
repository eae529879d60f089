//! Which of the kernels' formats stands for a class of arithmetic, and matrices read into it.

use crate::error::{Error, Result};
use crate::kernel::{Blocks, Format, Isa, Matrix};
use crate::tower::model::layer_weights::Weights;
use crate::types::Arithmetic;

/// The formats of an arithmetic class within an instruction set, best first; none for those that the processor does not
/// compute in.
pub(super) fn available(arithmetic: Arithmetic, isa: Isa) -> Vec<Format> {
    match arithmetic {
        Arithmetic::F32 => vec![Format::F32(isa)],
        Arithmetic::Bf16 => Format::bf16(isa),
        Arithmetic::Int8 => Format::int8(isa),
        Arithmetic::F16 => Vec::new(),
    }
}

/// The best of them.
///
/// # Errors
/// Unsupported for f16.
pub(super) fn best(arithmetic: Arithmetic, isa: Isa) -> Result<Format> {
    available(arithmetic, isa).first().copied().ok_or_else(|| {
        Error::unsupported("arithmetic = \"f16\" is not supported on the processor; it supports f32, bf16 and int8",
        )
    })
}

/// Reads a weight matrix.
pub(super) fn read_matrix(
    format: Format,
    from: &Weights<'_>,
    name: &str,
    shape: [usize; 2],
) -> Result<Matrix> {
    // Blocks that the file has are taken as they are; anything else is quantised.
    if matches!(format, Format::Int8(_))
        && let Some(bytes) = from.source.q8_0(name, &shape)?
    {
        let blocks = Blocks::stored(&bytes);
        let blocks =
            blocks.ok_or_else(|| Error::corrupt("a Q8_0 tensor does not divide into blocks"))?;
        return Ok(Matrix::Blocks(blocks));
    }
    Ok(format.matrix(from.floats(name, &shape)?, shape[1]))
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    use super::*;

    fn values(count: usize) -> Vec<f32> {
        let mut state = 7u64;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.;
                x * x * x * 0.3
            })
            .collect()
    }

    #[test]
    fn weights_quantise_as_ggml_does() {
        let (n, k) = (24, 160);
        let mut rows = values(n * k);
        rows[64..96].fill(0.);
        // Halfway cases: 127 makes the scale 1.
        for (at, x) in rows[96..128].iter_mut().enumerate() {
            *x = if at == 0 { 127. } else { at as f32 - 16.5 };
        }
        let tensor = Tensor::from_slice(&rows, (n, k), &Device::Cpu).unwrap();
        let theirs = QTensor::quantize(&tensor, GgmlDType::Q8_0).unwrap().data().unwrap().to_vec();
        let stored = Blocks::stored(&theirs).unwrap();
        let ours = Blocks::quantize(&rows, k);
        assert_eq!(ours.scales, stored.scales);
        assert_eq!(ours.quants, stored.quants);
        assert!(Blocks::stored(&theirs[1..]).is_none());
        // An input that is not a multiple of a block is padded.
        let odd = Blocks::quantize(&rows[..3 * 40], 40);
        assert_eq!((odd.quants.len(), odd.scales.len()), (3 * 64, 6));
        assert!(odd.quants[40..64].iter().all(|q| *q == 0));
    }
}
