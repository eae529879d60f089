//! The words for a file that would take more memory than it may.

use crate::error::{Error, ErrorKind};

/// What the limit is, and the way out.
const LARGER: &str = "a batch, a page, a block, or a buffer may take a quarter of the memory limit; where they are meant to be that large raise corpus.memory_limit_mib, or write the file in smaller ones";

/// A refusal of what would take so many bytes, or more, at once.
pub(super) fn too_large(place: &str, bytes: u64) -> Error {
    let mib = bytes.div_ceil(1 << 20);
    Error::new(
        ErrorKind::Input,
        format!("{place}: it would take {mib} MiB of memory at once, or more; {LARGER}"),
    )
}
