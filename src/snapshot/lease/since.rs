//! How long ago something was on this machine.

use std::time::Duration;

/// A moment of this machine's running time, in which its sleep counts: `Instant` stands still while a laptop sleeps, and
/// a lease goes stale meanwhile. Only the store can tell of the time in which a virtual machine was paused.
#[derive(Debug, Clone, Copy)]
pub struct Since(Duration);

impl Since {
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
        // Elsewhere it counts the sleep.
        #[cfg(not(target_os = "linux"))]
        const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the answer. Both clocks exist wherever this compiles, so the call succeeds.
        unsafe { libc::clock_gettime(CLOCK, &raw mut time) };
        // Since the machine's start: neither is negative.
        Self(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes() {
        let since = Since::now();
        std::thread::sleep(Duration::from_millis(20));
        let elapsed = since.elapsed();
        assert!(elapsed >= Duration::from_millis(19), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(600), "{elapsed:?}");
    }
}
