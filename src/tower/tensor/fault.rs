//! The faults of a device.

use crate::error::{Error, ErrorKind, Result};

/// Says what failed, and whether less work would cure it.
pub(super) fn fault<T>(result: candle_core::Result<T>, what: &'static str) -> Result<T> {
    // Out of memory is the one fault of a device that less work cures.
    result.map_err(|error| {
        let text = error.to_string();
        let kind = if is_out_of_memory(&text) { ErrorKind::Resource } else { ErrorKind::Internal };
        let what = match kind {
            ErrorKind::Resource => format!("{what}: the device is out of memory"),
            _ => what.to_owned(),
        };
        Error::new(kind, what).with_source(error)
    })
}

/// Elements of one tensor at most: kernels of candle count them in 32 bits, and twice as many make one loop endlessly.
const MAX_ELEMENTS: usize = 1 << 31;

/// Sequences of one batch at most: the fused attention's launch has one row of blocks for each, no launch has more, and
/// the kernel's own library discards the error, so that memory as it was would become vectors.
const MAX_SEQUENCES: usize = 65_535;

/// Refuses a batch that is too large for the device's kernels, whose widest tensor has `widest` columns.
///
/// # Errors
/// Resource: half of the batch may do.
pub(super) fn check_size(sequences: &[&[u32]], widest: usize) -> Result<()> {
    let tokens: usize = sequences.iter().map(|sequence| sequence.len()).sum();
    if tokens.checked_mul(widest).is_some_and(|elements| elements <= MAX_ELEMENTS) {
        if sequences.len() <= MAX_SEQUENCES {
            return Ok(());
        }
        return Err(Error::new(
            ErrorKind::Resource,
            format!(
                "a batch of {} texts is too large for a device, whose kernels take {MAX_SEQUENCES}; set \
                 encode.token_budget to {MAX_SEQUENCES} or less",
                sequences.len()
            ),
        ));
    }
    Err(Error::new(
        ErrorKind::Resource,
        format!(
            "a batch of {tokens} tokens is too large for a device: its widest tensor has {widest} columns, and the kernels \
             take {MAX_ELEMENTS} elements; set encode.token_budget to {} or less",
            MAX_ELEMENTS / widest.max(1)
        ),
    ))
}

/// Whether an error is what the driver, the runtime or cuBLAS say where memory is short. candle wraps their errors too
/// often to match on types.
pub(crate) fn is_out_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["out of memory", "out_of_memory", "cublas_status_alloc_failed", "memoryallocation"]
        .iter()
        .any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_more_texts_than_a_launch_has_blocks_is_refused() {
        let mut texts = vec![&[1u32][..]; MAX_SEQUENCES];
        check_size(&texts, 100).unwrap();
        texts.push(&[1]);
        let error = check_size(&texts, 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Resource);
        assert!(error.to_string().contains("65536 texts"), "{error}");
    }

    #[test]
    fn a_device_out_of_memory_is_told_from_other_faults() {
        // As cudarc writes the driver's and cuBLAS's codes, and the CUDA runtime its own.
        for text in [
            r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#,
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "cudaErrorMemoryAllocation: out of memory",
        ] {
            let failed = || Err::<(), _>(candle_core::Error::Msg(text.to_owned()).bt());
            let error = fault(failed(), "computing").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Resource, "{text}");
        }
        let text = r#"DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")"#;
        let failed = Err::<(), _>(candle_core::Error::Msg(text.to_owned()));
        assert_eq!(fault(failed, "computing").unwrap_err().kind(), ErrorKind::Internal);
    }
}
