//! How many connections the system's bound on open files leaves room for.

/// Descriptors beside those of connections and of two snapshots: downloads, the lease, listings.
const SPARE: usize = 64;
/// Fewest connections, however few descriptors there are.
const LEAST: usize = 16;

/// Raises this process's bound on open files to what the system allows it. A system that refuses leaves it as it is.
#[cfg(unix)]
pub(crate) fn raise() {
    let Some(mut limit) = limit() else { return };
    // Some systems call the hard bound infinite and refuse to set it.
    limit.rlim_cur = limit.rlim_max.min(1 << 20).max(limit.rlim_cur);
    // SAFETY: reads one struct that outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

/// Only Unix has this bound.
#[cfg(not(unix))]
pub(crate) fn raise() {}

#[cfg(unix)]
fn limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills one struct that outlives the call.
    (unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0).then_some(limit)
}

#[cfg(unix)]
fn bound() -> Option<usize> {
    limit().map(|limit| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
fn bound() -> Option<usize> {
    None
}

/// At most `wanted` connections, so that the next snapshot can be opened beside the one in service.
pub(super) fn connections(wanted: usize) -> usize {
    let open = std::fs::read_dir("/dev/fd").map_or(SPARE, Iterator::count);
    bound().map_or(wanted, |bound| room(bound, open, wanted))
}

/// What is open now stays open, and the next snapshot takes as much again.
fn room(bound: usize, open: usize, wanted: usize) -> usize {
    wanted.min(bound.saturating_sub(2 * open + SPARE).max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_come_before_connections() {
        assert_eq!(room(20_000, 30, 1_024), 1_024);
        assert_eq!(room(1_024, 30, 1_024), 900);
        assert_eq!(room(256, 30, 1_024), 132);
        assert_eq!(room(256, 30, 50), 50);
        assert_eq!(room(64, 30, 1_024), LEAST);
        assert_eq!(room(64, 30, 5), 5);
        assert_eq!(connections(7), 7);
    }
}
