//! All leases of a root: who is alive, and waiting for somebody else.
//!
//! Every age is by the store's clock ([`Root::now`]), here as told by one's own lease: the time stamp that the store
//! gave it, plus how long ago that was. Where this machine does not know of all the time that passed (it was paused),
//! others look younger than they are, so one waits rather than acts. No machine's clock counts.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::holder::Holder;
use super::since::Since;
use crate::error::{Error, Result, ResultExt, found};
use crate::store::layout::{self, Folder, Key, LeaseKind};
use crate::store::{Listed, Root};

/// A lease older than this belongs to something that died: all sides finish or renew far earlier, or give up.
pub(super) const STALE: TimeDelta = TimeDelta::minutes(15);
/// A run whose last heartbeat is older than this is dead.
const RUN_STALE: TimeDelta = TimeDelta::minutes(5);
/// How old the lease of a dead process must be to count as stale: no request of its can be under way any more.
const DEAD: TimeDelta = TimeDelta::minutes(1);
/// How long one waits for a gc batch.
const FOR_GC: Duration = Duration::from_secs(3 * 60);

/// All leases of a root, and the store's time.
pub struct Leases {
    pub(super) listed: Vec<(Key, Listed)>,
    pub(super) now: DateTime<Utc>,
}

impl Leases {
    /// What the store lists; `own` was put at `taken`.
    pub(super) async fn see(root: &Root, own: &str, taken: Since) -> Result<Self> {
        let listed = root.list(layout::LEASES).await?;
        let Some(mine) = listed.iter().find(|lease| lease.key == own) else {
            return Err(Error::transient(format!(
                "the lease {own} is gone: it went stale or was removed; run again"
            )));
        };
        let age = TimeDelta::from_std(taken.elapsed()).unwrap_or(STALE);
        let now = mine.modified + age;
        Ok(Self::among(&listed, now))
    }

    /// Those among the objects of a root.
    pub fn among<'a>(objects: impl IntoIterator<Item = &'a Listed>, now: DateTime<Utc>) -> Self {
        let lease = |object: &Listed| match layout::folder(&object.key)? {
            Folder::Leases => Some((layout::parse(&object.key)?, object.clone())),
            _ => None,
        };
        Self { listed: objects.into_iter().filter_map(lease).collect(), now }
    }

    fn fresh(&self, stale: TimeDelta) -> impl Iterator<Item = &(Key, Listed)> {
        self.listed.iter().filter(move |(_, lease)| self.now - lease.modified < stale)
    }

    /// Whether anyone holds a lease of `kind`.
    pub(super) async fn held(&self, root: &Root, kind: LeaseKind) -> Result<bool> {
        for (key, lease) in self.fresh(STALE) {
            if !matches!(key, Key::Lease { kind: other, .. } if *other == kind) {
                continue;
            }
            let young = self.now - lease.modified < DEAD;
            let alive = |holder: Holder| young || !holder.is_dead();
            if holder(root, &lease.key).await?.is_some_and(alive) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keys of the leases of runs, alive or not, the one that counts last.
    pub fn runs(&self) -> impl Iterator<Item = &str> {
        let runs = self.listed.iter().filter(|(key, _)| matches!(key, Key::RunLease { .. }));
        runs.map(|(_, lease)| lease.key.as_str())
    }

    /// Whether the lease `key` of `run`, or its last heartbeat, is young.
    pub(super) fn run_beats(&self, key: &str, run: &str) -> bool {
        self.fresh(RUN_STALE).any(|(other, lease)| {
            lease.key == key || matches!(other, Key::Beat { run: other, .. } if other == run)
        })
    }

    /// Whether any run has a fresh heartbeat.
    pub fn any_run(&self) -> bool {
        let of_run = |key: &Key| matches!(key, Key::RunLease { .. } | Key::Beat { .. });
        self.fresh(RUN_STALE).any(|(key, _)| of_run(key))
    }

    /// Snapshots that readers ask for.
    pub fn read_snapshots(&self) -> BTreeSet<u64> {
        let readers = self.fresh(STALE).filter_map(|(key, _)| match key {
            Key::ReaderLease { snapshot, .. } => Some(*snapshot),
            _ => None,
        });
        readers.collect()
    }
}

/// Waiting for somebody else's lease to end, a little longer each time.
pub struct Patience {
    ends: Instant,
    pause: Duration,
}

impl Patience {
    /// For this long in total.
    pub fn of(time: Duration) -> Self {
        Self { ends: Instant::now() + time, pause: Duration::from_millis(20) }
    }

    /// Waits before the next look.
    ///
    /// # Errors
    /// Transient, with what `told` says, where the time is over.
    pub async fn pause(&mut self, told: impl FnOnce() -> String) -> Result<()> {
        if Instant::now() > self.ends {
            return Err(Error::transient(told()));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(2));
        Ok(())
    }
}

/// Waits until no gc batch is under way. A caller that has put a lease of its own before is seen by every
/// later batch.
pub(super) async fn wait_for_gc(root: &Root, own: &str, taken: Since) -> Result<()> {
    let mut patience = Patience::of(FOR_GC);
    while Leases::see(root, own, taken).await?.held(root, LeaseKind::Gc).await? {
        let told = || format!("a gc of {} is in progress; run again when it is done", root.uri());
        patience.pause(told).await?;
    }
    Ok(())
}

/// The content of a lease of this process.
pub(super) fn content(kind: &str, run: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(&Holder::this(kind, run)).context(|| "lease as JSON")
}

/// Who wrote a lease; `None` where there is none.
pub(super) async fn holder(root: &Root, key: &str) -> Result<Option<Holder>> {
    let bytes = found(root.get(key).await)?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_else(|_| Holder::unknown())))
}

/// Deletes a lease; one that cannot be deleted goes stale.
pub(super) async fn remove(root: &Root, key: &str) {
    if let Err(error) = root.delete(key).await {
        tracing::warn!(%key, %error, "a lease could not be released; it goes stale in 15 minutes");
    }
}
