//! A reader's lease that renews itself for as long as its snapshot is open.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::{ErrorKind, Result};
use crate::snapshot::ReaderLease;
use crate::store::Root;

/// How long closing waits for leases to be given back; they go stale by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct KeptLease {
    _dropped: oneshot::Sender<()>,
}

/// The tasks that renew leases and give them back.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<JoinSet<()>>);

impl Leases {
    /// Takes a lease on a snapshot; `None` where the root cannot be written to, which must do for such readers.
    ///
    /// # Errors
    /// NotFound where a gc took the snapshot first.
    pub async fn take(&self, root: &Root, number: u64) -> Result<Option<KeptLease>> {
        if root.is_read_only() {
            return Ok(None);
        }
        let lease = match ReaderLease::take(root, number).await {
            Ok(lease) => lease,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
            Err(error) => {
                tracing::debug!(snapshot = number, %error, "read without a lease");
                return Ok(None);
            }
        };
        let (dropped, gone) = oneshot::channel();
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(keep(lease, gone));
        Ok(Some(KeptLease { _dropped: dropped }))
    }

    /// Waits until every lease that was dropped is given back.
    pub async fn settle(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // A snapshot that is still held leaves its lease to go stale.
        let _ =
            tokio::time::timeout(PATIENCE, async { while tasks.join_next().await.is_some() {} })
                .await;
    }
}

async fn keep(mut lease: ReaderLease, mut gone: oneshot::Receiver<()>) {
    while tokio::time::timeout(ReaderLease::RENEW_EVERY, &mut gone).await.is_err() {
        if let Err(error) = lease.renew().await {
            tracing::warn!(snapshot = lease.snapshot(), %error, "a reader's lease could not be renewed");
        }
    }
    lease.release().await;
}
