//! Clocks that a test moves: those of a process of the model, which is a thread, go on when the test says so. What the real code sleeps through, or takes for the age of its own lease, then passes at once.
//!
//! Rust's `Instant` and tokio's timers read `clock_gettime`; the definition here takes its place in the test binary and
//! adds what the calling thread is ahead. Tokio's own `pause` would do the same, but is a feature that the program
//! must not have: with it every crate above tokio would be built twice.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// How many nanoseconds a thread's clocks are ahead.
#[derive(Debug, Default)]
pub struct Ahead {
    running: AtomicI64,
    suspended: AtomicI64,
}

impl Ahead {
    /// Time passes while the machine runs.
    pub fn run(&self, time: Duration) {
        self.running.fetch_add(time.as_nanos() as i64, Ordering::Relaxed);
    }

    /// Time passes while the machine is suspended: the clock of its running time stands still.
    pub fn suspend(&self, time: Duration) {
        self.suspended.fetch_add(time.as_nanos() as i64, Ordering::Relaxed);
    }
}

thread_local! {
    /// Null where the clocks are not moved.
    static AHEAD: Cell<*const Ahead> = const { Cell::new(std::ptr::null()) };
}

/// From now on this thread's clocks are `ahead` ahead, until the guard goes.
pub fn follow(ahead: &Arc<Ahead>) -> Following {
    AHEAD.set(Arc::as_ptr(ahead));
    Following { _ahead: Arc::clone(ahead) }
}

/// Keeps what [`follow`] points at.
pub struct Following {
    _ahead: Arc<Ahead>,
}

impl Drop for Following {
    fn drop(&mut self) {
        AHEAD.set(std::ptr::null());
    }
}

#[cfg(target_os = "linux")]
mod shim {
    use std::sync::atomic::{AtomicPtr, Ordering};

    type Real = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

    static REAL: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

    fn real() -> Real {
        let mut found = REAL.load(Ordering::Relaxed);
        if found.is_null() {
            // SAFETY: the name ends in a zero byte.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
            REAL.store(found, Ordering::Relaxed);
        }
        // SAFETY: it is the C library's function of this name.
        unsafe { std::mem::transmute::<*mut libc::c_void, Real>(found) }
    }

    /// The C library's, where the thread's clock is not moved.
    ///
    /// # Safety
    /// As of the C library's.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn clock_gettime(
        clock: libc::clockid_t,
        time: *mut libc::timespec,
    ) -> libc::c_int {
        // SAFETY: handed on as it came.
        let done = unsafe { real()(clock, time) };
        let ahead = super::AHEAD.try_with(super::Cell::get).unwrap_or(std::ptr::null());
        if done == 0 && !ahead.is_null() {
            // SAFETY: `Following` keeps it alive; the caller gave room for a time, which the real one has filled.
            let (ahead, time) = unsafe { (&*ahead, &mut *time) };
            let running = ahead.running.load(Ordering::Relaxed);
            let ahead = match clock {
                libc::CLOCK_MONOTONIC => running,
                libc::CLOCK_BOOTTIME => running + ahead.suspended.load(Ordering::Relaxed),
                _ => 0,
            };
            let nanos = time.tv_nsec + ahead;
            time.tv_sec += nanos.div_euclid(1_000_000_000);
            time.tv_nsec = nanos.rem_euclid(1_000_000_000);
        }
        done
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_clock_of_one_thread_is_moved() {
    use std::time::Instant;
    let (hour, ahead, before) = (Duration::from_secs(3600), Arc::default(), Instant::now());
    let following = follow(&ahead);
    ahead.suspend(hour);
    assert!(before.elapsed() < hour);
    ahead.run(hour);
    assert!(before.elapsed() >= hour);
    let elsewhere = std::thread::spawn(move || before.elapsed()).join().unwrap();
    assert!(elsewhere < hour, "{elsewhere:?}");
    drop(following);
    assert!(before.elapsed() < hour);
}
