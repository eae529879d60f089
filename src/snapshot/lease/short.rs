//! Short leases that keep a commit and a gc batch from running into each other.

use std::time::Duration;

use super::holder::HeldHere;
use super::leases::{Leases, STALE, content, remove, wait_for_gc};
use super::since::Since;
use crate::error::Result;
use crate::store::Root;
use crate::store::layout::{self, LeaseKind};

/// How long a commit may take from its lease to its put, and a gc batch from its lease to its last delete.
pub const COMMIT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// A lease that is younger than this holds the other side off.
pub const HELD_LIMIT: Duration = Duration::from_secs(STALE.num_seconds() as u64);

/// A lease that is in the store. [`Lease::release`] takes it away; a process that dies leaves it to go stale.
pub struct Lease<'a> {
    root: &'a Root,
    key: String,
    taken: Since,
    _held: HeldHere,
}

impl<'a> Lease<'a> {
    pub async fn take(root: &'a Root, kind: LeaseKind) -> Result<Self> {
        let id = format!("{:016x}", rand::random::<u64>());
        let key = layout::lease(kind, &id);
        let lease = Self { root, key, taken: Since::now(), _held: HeldHere::new(&id) };
        if let Err(error) = root.put(&lease.key, content(&kind.to_string(), &id)?.into()).await {
            // It may be there all the same, and would hold the other side up until it goes stale.
            lease.release().await;
            return Err(error);
        }
        Ok(lease)
    }

    /// Takes the lease away.
    pub async fn release(self) {
        remove(self.root, &self.key).await;
    }

    /// Everybody's leases.
    pub async fn others(&self) -> Result<Leases> {
        Leases::see(self.root, &self.key, self.taken).await
    }

    /// Whether somebody holds a lease of `kind`.
    pub async fn stands_beside(&self, kind: LeaseKind) -> Result<bool> {
        self.others().await?.held(self.root, kind).await
    }

    /// As [`check_store`], with this lease as the name that is taken.
    pub async fn check_store(&self) -> Result<()> {
        self.root.require_conditional_create(&self.key).await
    }

    /// How long ago it was taken, as far as this machine knows: see [`Since`].
    pub fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    /// Whether it is there and younger than `limit` by the store's clock, asked now: the time in which this process or
    /// its machine stood still counts, too.
    pub async fn is_younger_than(&self, limit: Duration) -> Result<bool> {
        let now = self.root.now().await?;
        let taken = self.root.modified(&self.key).await?;
        // A store may round its stamps: what it wrote last may seem to lie ahead.
        Ok(taken.is_some_and(|taken| (now - taken).to_std().unwrap_or_default() < limit))
    }

    /// See [`wait_for_gc`].
    pub async fn wait_for_gc(&self) -> Result<()> {
        wait_for_gc(self.root, &self.key, self.taken).await
    }
}

/// Checks that the store can hold snapshots, before a run works for one: of two creates of one name the second fails.
///
/// # Errors
/// Unsupported, with advice; Transient where the store fails.
pub async fn check_store(root: &Root) -> Result<()> {
    if root.creates_conditionally() {
        return Ok(());
    }
    let lease = Lease::take(root, LeaseKind::Probe).await?;
    let checked = lease.check_store().await;
    lease.release().await;
    checked
}
