//! How the allocator treats large blocks.

/// Maps blocks of a megabyte and more one by one, so that freed ones go back to the system at once.
///
/// glibc raises that bound to the largest block freed so far, and then the buffers of windows and indexes leave holes
/// in its heaps: a run's memory creeps up with every shard though nothing is kept. `make bench-memory` shows it. Not
/// for training, whose tensors come and go by the thousand.
pub(crate) fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
}
