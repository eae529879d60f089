//! How the allocator treats large blocks.

/// Maps blocks of a megabyte and more one by one, so that freed ones go back to the system at once.
///
/// glibc raises that bound to the largest block freed so far, and then the buffers of windows and indexes leave holes
/// in its heaps: a run's memory creeps up with every shard though nothing is kept. `make bench-memory` shows it.
pub(crate) fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
}

/// Keeps what is freed, for training: its tensors are of tens of megabytes and come and go by the thousand, and pages that
/// the system takes back have to be cleared again, which costs a fifth of the time.
pub(crate) fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets three numbers of the allocator, under its own lock.
    unsafe {
        // Only the first arena can grow without mappings of their own.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}
