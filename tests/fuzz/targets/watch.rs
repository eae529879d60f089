//! The largest single request for memory: what tells an unchecked length from a large but honest file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests below this are not worth an atomic operation.
const NOTICED: usize = 1 << 20;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with an eye on large requests.
pub struct Watch;

fn notice(size: usize) {
    if size >= NOTICED {
        LARGEST.fetch_max(size, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        notice(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        notice(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        notice(size);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes of the largest request since the last reset; 0 where none was large.
pub fn largest_request() -> usize {
    LARGEST.load(Ordering::Relaxed)
}

/// Starts again.
pub fn reset_largest_request() {
    LARGEST.store(0, Ordering::Relaxed);
}
