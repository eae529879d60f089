//! Bytes of requests and answers in memory: one bound for all of them, and who holds how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bound, and what is held.
#[derive(Debug)]
pub(super) struct Pool {
    limit: usize,
    held: AtomicUsize,
}

impl Pool {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicUsize::new(0) })
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// What one request and its answer hold; given back when the last that refers to it is done.
#[derive(Debug)]
pub(super) struct Account {
    pool: Arc<Pool>,
    bytes: AtomicUsize,
}

impl Account {
    pub fn new(pool: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { pool: Arc::clone(pool), bytes: AtomicUsize::new(0) })
    }

    /// Takes `bytes` more; false where the pool has not so many left.
    pub fn take(&self, bytes: usize) -> bool {
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.pool.limit);
        let taken = self.pool.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if taken {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives everything back: what is in memory still will be gone in a moment.
    pub fn give_back(&self) {
        self.pool.held.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back() {
        let pool = Pool::new(100);
        let (one, other) = (Account::new(&pool), Account::new(&pool));
        assert!(one.take(60) && !other.take(50) && other.take(40));
        assert!(!one.take(1) && !one.take(usize::MAX));
        assert_eq!((one.bytes(), other.bytes(), pool.held()), (60, 40, 100));
        one.give_back();
        assert!(other.take(60));
        // It gave everything back before.
        drop(one);
        assert_eq!(pool.held(), 100);
        drop(other);
        assert_eq!(pool.held(), 0);
    }
}
