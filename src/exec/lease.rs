//! Keeps the lease of a run alive while the run works, and stops the run where the lease is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::RunContext;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::Event;
use crate::snapshot::{RunLease, Taken};
use crate::types::Cancel;

/// Pause between two looks at another run's lease.
const LOOK: Duration = Duration::from_secs(2);

/// The lease of this run, after at most `wait` for another run to end.
pub(super) async fn take(ctx: &RunContext, run: &str, wait: Duration) -> Result<RunLease> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let taken = RunLease::take(&ctx.root, run).await?;
        if matches!(taken, Taken::Ours(_)) || started.elapsed() >= wait {
            return taken.or_busy(&ctx.root);
        }
        if !told {
            let busy = taken.or_busy(&ctx.root).err();
            let message = busy.map(|busy| format!("{busy}; waiting for its end"));
            ctx.reporter.event(Event::Info { message: message.unwrap_or_default() });
            told = true;
        }
        ctx.cancel.check()?;
        tokio::time::sleep(LOOK.min(wait.saturating_sub(started.elapsed()))).await;
    }
}

/// Beats while it exists.
pub(super) struct Heart {
    pub lease: Arc<RunLease>,
    /// Stops when the lease is lost.
    pub cancel: Cancel,
    beating: Beating,
}

/// Ends with its owner: a run that is dropped midway must not look alive.
struct Beating(tokio::task::JoinHandle<()>);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Heart {
    pub fn start(lease: RunLease, cancel: Cancel) -> Self {
        let lease = Arc::new(lease);
        let beating = Beating(tokio::spawn(beat(Arc::clone(&lease), cancel.clone())));
        Self { lease, cancel, beating }
    }

    /// Releases the lease.
    pub async fn stop(mut self) {
        self.beating.0.abort();
        let _aborted = (&mut self.beating.0).await;
        // The task above is over: this is the only owner.
        if let Some(lease) = Arc::into_inner(self.lease) {
            lease.release().await;
        }
    }
}

async fn beat(lease: Arc<RunLease>, cancel: Cancel) {
    loop {
        tokio::time::sleep(RunLease::BEAT_EVERY).await;
        match lease.beat().await {
            Ok(()) => {}
            Err(lost) if lost.kind() == ErrorKind::Conflict => {
                cancel.stop(lost.kind(), lost.to_string());
                return;
            }
            // The store may answer the next one; if it does not, the run will meet that by itself.
            Err(error) => warn(&error),
        }
    }
}

fn warn(error: &Error) {
    tracing::warn!(%error, "the heartbeat of this run could not be stored");
}
