//! The words for a file that would take more memory than it may.

use crate::error::Error;

/// A refusal of what would take so many bytes, or more, at once.
pub(super) fn too_large(place: &str, bytes: u64) -> Error {
    Error::input(format!(
        "{place}: it would take {} MiB of memory at once, or more; a batch, a page, a block, or a buffer may take a quarter of \
         the memory limit: raise corpus.memory_limit_mib where they are meant to be that large, or write the file in smaller ones",
        bytes.div_ceil(1 << 20)
    ))
}
