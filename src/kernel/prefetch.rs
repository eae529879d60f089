//! Asking for memory before it is read.

/// Asks for the cache lines of `values[at..at + count]`, as far as they exist.
#[inline(always)]
pub fn prefetch<T>(values: &[T], at: usize, count: usize) {
    let end = at.saturating_add(count).min(values.len());
    let Some(asked) = values.get(at..end).filter(|asked| !asked.is_empty()) else { return };
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = asked.as_ptr().cast::<i8>();
        let lines = (first.addr() % 64 + size_of_val(asked)).div_ceil(64);
        for line in 0..lines {
            // SAFETY: a hint reads nothing, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64 * line)) }
        }
    }
    // Other processors have no stable intrinsic for it.
    let _ = asked;
}
