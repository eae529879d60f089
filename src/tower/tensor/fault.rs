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

/// Refuses a batch of `tokens` rows where one of `widest` columns is too large for the device's kernels.
///
/// # Errors
/// Resource: half of the batch may do.
pub(super) fn check_size(tokens: usize, widest: usize) -> Result<()> {
    if tokens.checked_mul(widest).is_some_and(|elements| elements <= MAX_ELEMENTS) {
        return Ok(());
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
