//! Keeps the lease of a run alive while the run works, and stops the run where the lease is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::request::RunContext;
use crate::error::{ErrorKind, Result};
use crate::snapshot::{RunLease, Taken};
use crate::types::Cancel;

/// Pause between two looks at another run's lease.
const LOOK: Duration = Duration::from_secs(2);

/// The lease of this run, after at most `wait` for another run to end.
pub(crate) async fn take(ctx: &RunContext, run: &str, wait: Duration) -> Result<RunLease> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let taken = RunLease::take(&ctx.root, run).await?;
        if matches!(taken, Taken::Ours(_)) || started.elapsed() >= wait {
            return taken.or_busy(&ctx.root);
        }
        if !told {
            let busy = taken.or_busy(&ctx.root).err();
            let message = busy.map(|busy| format!("{busy}; waiting for it to end"));
            ctx.reporter.info(message.unwrap_or_default());
            told = true;
        }
        ctx.cancel.pause(LOOK.min(wait.saturating_sub(started.elapsed()))).await?;
    }
}

/// Beats while it exists.
pub(crate) struct Heart {
    pub lease: Arc<RunLease>,
    /// Stops when the lease is lost.
    pub cancel: Cancel,
    /// Ends with its owner: a run that is dropped midway must not look alive.
    beating: JoinSet<()>,
}

impl Heart {
    pub fn start(lease: RunLease, cancel: Cancel) -> Self {
        let lease = Arc::new(lease);
        let beating = JoinSet::from_iter([beat(Arc::clone(&lease), cancel.clone())]);
        Self { lease, cancel, beating }
    }

    /// Releases the lease.
    pub async fn stop(mut self) {
        self.beating.shutdown().await;
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
            // The store may answer the next one; if it does not, the run will meet that itself.
            Err(error) => tracing::warn!(%error, "the heartbeat of this run could not be stored"),
        }
    }
}
