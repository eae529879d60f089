//! Room for code that calls itself once for every level of what it reads.
//!
//! A stack that overflows ends the process, and with it everything else that it was doing. Parsers and planners of SQL
//! take up to 50 KiB of stack a level; a thread of ours or of tokio has 2 MiB. So they run on a thread that has room
//! for every level that their input was checked to have.

use super::{Error, Result};

/// Address space that becomes memory where it is used.
const STACK: usize = 128 << 20;

/// Runs `work` on a thread with a large stack, and waits for it. A panic of it goes on here.
///
/// # Errors
/// Resource where the system has no thread to give; those of `work`.
pub fn deep<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = builder().spawn_scoped(scope, work).map_err(no_deep_thread)?;
        thread.join().unwrap_or_else(|words| std::panic::resume_unwind(words))
    })
}

/// [`deep`] for a future, which the thread polls to its end. Its reads use the runtime that this is called on.
///
/// # Errors
/// Resource where the system has no thread to give.
///
/// # Panics
/// Outside of a tokio runtime, and where the future does.
pub async fn deep_async<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let thread = builder().spawn(move || {
        // The caller may have given up.
        let _gone = sender.send(runtime.block_on(work));
    });
    let thread = thread.map_err(no_deep_thread)?;
    match receiver.await {
        Ok(done) => Ok(done),
        // It ended without an answer.
        Err(_) => match thread.join() {
            Err(words) => std::panic::resume_unwind(words),
            Ok(()) => Err(Error::internal("a thread ended without an answer")),
        },
    }
}

fn builder() -> std::thread::Builder {
    std::thread::Builder::new().name("deep".to_owned()).stack_size(STACK)
}

fn no_deep_thread(cause: std::io::Error) -> Error {
    no_thread("the system gives no thread with 128 MiB of address space", cause)
}

/// The error of a thread that cannot be started. What the system says of it ("temporarily unavailable") would otherwise
/// be read as something that passes.
pub fn no_thread(doing: &'static str, cause: std::io::Error) -> Error {
    // A runtime needs descriptors, too.
    let descriptors = super::way_out(&cause).filter(|hint| *hint == super::TOO_MANY_FILES);
    let threads = "raise the limits on processes and on address space (ulimit -u, -v; TasksMax of a service, pids of a container)";
    Error::resource(doing).with_source(cause).with_hint(descriptors.unwrap_or(threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that takes 16 KiB of stack or more a level.
    #[inline(never)]
    fn levels(left: usize) -> usize {
        let room = std::hint::black_box([0_u8; 16 << 10]);
        let below = match left {
            0 => 0,
            _ => 1 + levels(left - 1),
        };
        std::hint::black_box(&room);
        below
    }

    #[tokio::test]
    async fn there_is_room_for_many_levels() {
        assert_eq!(deep(|| Ok(levels(1_000))).unwrap(), 1_000);
        assert_eq!(deep_async(async { levels(1_000) }).await.unwrap(), 1_000);
    }
}
