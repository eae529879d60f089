//! A reader's lease: asks gc to keep a snapshot and its files while somebody reads them.

use std::time::Duration;

use super::leases::{content, remove, wait_for_gc};
use super::since::Since;
use crate::error::{Error, Result};
use crate::store::{Root, layout};

/// Keeps one snapshot from gc until it is released, or until nobody has renewed it for 15 minutes.
///
/// Optional: readers that may not write do without, and the grace time of the retention has to be enough for them.
/// Dropping it without [`ReaderLease::release`] leaves it to go stale.
#[derive(Debug)]
pub struct ReaderLease {
    root: Root,
    snapshot: u64,
    id: String,
    renewals: u64,
}

impl ReaderLease {
    /// How often to call [`ReaderLease::renew`].
    pub const RENEW_EVERY: Duration = Duration::from_secs(4 * 60);

    /// Takes a lease on snapshot `snapshot`. Once it returns, every file of the snapshot stays.
    ///
    /// # Errors
    /// NotFound where gc was first: read the newest number again. Unsupported or Input where the root cannot be
    /// written to: go on without a lease.
    pub async fn take(root: &Root, snapshot: u64) -> Result<Self> {
        let id = format!("{:016x}", rand::random::<u64>());
        let lease = Self { root: root.clone(), snapshot, id, renewals: 0 };
        lease.put().await?;
        Ok(lease)
    }

    /// The snapshot that it keeps.
    pub fn snapshot(&self) -> u64 {
        self.snapshot
    }

    /// Says that the reader is still there.
    ///
    /// # Errors
    /// NotFound where the snapshot was deleted because this was too late (a suspended machine); what the store says,
    /// and then the last renewal still counts.
    pub async fn renew(&mut self) -> Result<()> {
        let old = self.key();
        self.renewals += 1;
        self.put().await?;
        remove(&self.root, &old).await;
        Ok(())
    }

    /// Releases the snapshot.
    pub async fn release(self) {
        remove(&self.root, &self.key()).await;
    }

    fn key(&self) -> String {
        layout::reader_lease(self.snapshot, &self.id, self.renewals)
    }

    /// Puts the lease first and looks second: a gc batch that began before is waited for, later ones see the lease.
    async fn put(&self) -> Result<()> {
        let (key, taken) = (self.key(), Since::now());
        let kept = async {
            self.root.put(&key, content("reader", "")?.into()).await?;
            wait_for_gc(&self.root, &key, taken).await?;
            match self.root.size(&layout::manifest(self.snapshot)).await? {
                Some(_) => Ok(()),
                None => Err(Error::not_found(format!(
                    "snapshot {} is gone from {}; open the newest",
                    self.snapshot,
                    self.root.uri()
                ))),
            }
        };
        let kept = kept.await;
        if kept.is_err() {
            remove(&self.root, &key).await;
        }
        kept
    }
}
