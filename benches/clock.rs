//! What every bench of indexes needs: seconds of the processor, and numbers that look random.

/// What goes wrong in a bench.
pub type Failure = Box<dyn std::error::Error>;

/// SplitMix64: keys like the hashes that the pipeline uses.
pub fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Seconds of processor time that this process has used.
pub fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call may write to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the processor clock exists on every system that this bench runs on");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
