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

/// Weights that are asked for in small shares while those before them are multiplied, so that they wait in the second-level cache
/// when their turn comes.
pub(crate) struct Ahead<'a> {
    rest: &'a [f32],
    share: usize,
}

impl<'a> Ahead<'a> {
    /// The first `count` of `rest`, as far as they exist, in so many shares.
    pub(crate) fn new(rest: &'a [f32], count: usize, shares: usize) -> Self {
        let rest = &rest[..count.min(rest.len())];
        // Whole lines of 16.
        Self { rest, share: rest.len().div_ceil(shares.max(1)).next_multiple_of(16) }
    }

    /// Asks for one share.
    #[inline(always)]
    pub(crate) fn ask(&mut self) {
        let (share, rest) = self.rest.split_at(self.share.min(self.rest.len()));
        self.rest = rest;
        #[cfg(target_arch = "x86_64")]
        for line in share.chunks(16) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a hint reads nothing, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
        }
        let _ = share;
    }
}
