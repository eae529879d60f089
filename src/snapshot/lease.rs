//! Short leases that keep a commit and a gc batch from running into each other, and what all leases have in common.
//!
//! Every age is by the store's clock: the time stamp that the store gave to one's own lease, plus how long ago that was.
//! No machine's clock counts.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::holder::{HeldHere, Holder};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Listed, Root, layout};

/// A lease older than this belongs to something that died: all sides finish or renew far earlier, or give up.
pub(super) const STALE: TimeDelta = TimeDelta::minutes(15);
/// A run whose last heartbeat is older than this is dead.
pub(super) const RUN_STALE: TimeDelta = TimeDelta::minutes(5);
/// How old the lease of a dead process must be to count as stale: no request of its can be under way any more.
const DEAD: TimeDelta = TimeDelta::minutes(1);
/// How long a commit may take from its lease to its put.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long one waits for a gc batch.
const PATIENCE: Duration = Duration::from_secs(3 * 60);

/// Which side holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Commit,
    Gc,
    Probe,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Gc => "gc",
            Self::Probe => "probe",
        }
    }
}

/// All leases of a root, and the store's time.
pub(super) struct Leases {
    pub listed: Vec<Listed>,
    pub now: DateTime<Utc>,
}

impl Leases {
    /// What the store lists; `own` was put at `taken`.
    pub(super) async fn see(root: &Root, own: &str, taken: Instant) -> Result<Self> {
        let listed = root.list(layout::LEASES).await?;
        let Some(mine) = listed.iter().find(|lease| lease.key == own) else {
            return Err(Error::new(
                ErrorKind::Transient,
                format!("the lease {own} is gone: it went stale or was removed; run again"),
            ));
        };
        let age = TimeDelta::from_std(taken.elapsed()).unwrap_or(STALE);
        let now = mine.modified + age;
        Ok(Self { listed, now })
    }

    fn fresh<'a>(&'a self, start: &str, stale: TimeDelta) -> impl Iterator<Item = &'a Listed> {
        self.listed
            .iter()
            .filter(move |lease| lease.key.starts_with(start) && self.now - lease.modified < stale)
    }

    /// Whether anyone holds a lease of `kind`.
    pub(super) async fn held(&self, root: &Root, kind: Kind) -> Result<bool> {
        let start = format!("{}/{}-", layout::LEASES, kind.name());
        for lease in self.fresh(&start, STALE) {
            let young = self.now - lease.modified < DEAD;
            let alive = |holder: Holder| young || !holder.is_dead();
            if holder(root, &lease.key).await?.is_some_and(alive) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keys of the leases of runs, alive or not, the one that counts last.
    pub(super) fn runs(&self) -> impl DoubleEndedIterator<Item = &str> {
        let keys = self.listed.iter().map(|lease| lease.key.as_str());
        keys.filter(|key| layout::run_lease_number(key).is_some())
    }

    /// Whether the lease `key` of `run`, or its last heartbeat, is young.
    pub(super) fn run_beats(&self, key: &str, run: &str) -> bool {
        self.fresh(key, RUN_STALE).next().is_some()
            || self.fresh(&layout::beats(run), RUN_STALE).next().is_some()
    }

    /// Whether any run shows a sign of life.
    pub(super) fn any_run(&self) -> bool {
        let start = |name: &str| format!("{}/{name}-", layout::LEASES);
        self.fresh(&start("run"), RUN_STALE).next().is_some()
            || self.fresh(&start("beat"), RUN_STALE).next().is_some()
    }

    /// Snapshots that readers ask for.
    pub(super) fn read_snapshots(&self) -> BTreeSet<u64> {
        let start = format!("{}/reader-", layout::LEASES);
        self.fresh(&start, STALE).filter_map(|l| layout::reader_lease_snapshot(&l.key)).collect()
    }
}

/// Waits until no gc batch is under way. Whoever has put a lease of its own before it calls this is seen by every
/// later batch.
pub(super) async fn wait_for_gc(root: &Root, own: &str, taken: Instant) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    while Leases::see(root, own, taken).await?.held(root, Kind::Gc).await? {
        if started.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Transient,
                format!("a gc of {} is going on; run again when it is done", root.uri()),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    Ok(())
}

/// The content of a lease of this process.
pub(super) fn content(kind: &str, run: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(&Holder::this(kind, run))
        .map_err(|cause| Error::internal("lease as JSON").with_source(cause))
}

/// Who wrote a lease; `None` where there is none.
pub(super) async fn holder(root: &Root, key: &str) -> Result<Option<Holder>> {
    match root.get(key).await {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| Holder::unknown()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes a lease; one that cannot be deleted goes stale by itself.
pub(super) async fn remove(root: &Root, key: &str) {
    if let Err(error) = root.delete(key).await {
        tracing::warn!(%key, %error, "a lease could not be released; it goes stale in 15 minutes");
    }
}

/// A lease that is in the store. [`Lease::release`] takes it away; a process that dies leaves it to go stale.
pub(super) struct Lease<'a> {
    root: &'a Root,
    key: String,
    taken: Instant,
    _held: HeldHere,
}

impl<'a> Lease<'a> {
    pub(super) async fn take(root: &'a Root, kind: Kind) -> Result<Self> {
        let id = format!("{:016x}", rand::random::<u64>());
        let key = layout::lease(kind.name(), &id);
        let lease = Self { root, key, taken: Instant::now(), _held: HeldHere::new(&id) };
        if let Err(error) = root.put(&lease.key, content(kind.name(), &id)?.into()).await {
            // It may be there all the same, and would hold the other side up until it goes stale.
            lease.release().await;
            return Err(error);
        }
        Ok(lease)
    }

    /// Takes the lease away.
    pub(super) async fn release(self) {
        remove(self.root, &self.key).await;
    }

    /// Everybody's leases.
    pub(super) async fn others(&self) -> Result<Leases> {
        Leases::see(self.root, &self.key, self.taken).await
    }

    /// Whether somebody holds a lease of `kind`.
    pub(super) async fn stands_beside(&self, kind: Kind) -> Result<bool> {
        self.others().await?.held(self.root, kind).await
    }

    /// As [`check_store`], with this lease as the name that is taken.
    pub(super) async fn check_store(&self) -> Result<()> {
        self.root.require_conditional_create(&self.key).await
    }

    /// How long ago it was taken.
    pub(super) fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    /// See [`wait_for_gc`].
    pub(super) async fn wait_for_gc(&self) -> Result<()> {
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
    let lease = Lease::take(root, Kind::Probe).await?;
    let checked = lease.check_store().await;
    lease.release().await;
    checked
}

/// The time as the store tells it, for ages of its objects: writes and removes a small object.
pub async fn store_time(root: &Root) -> Result<DateTime<Utc>> {
    let lease = Lease::take(root, Kind::Probe).await?;
    let listed = root.list(layout::LEASES).await;
    let stamped = listed.map(|all| all.iter().find(|l| l.key == lease.key).map(|own| own.modified));
    lease.release().await;
    stamped?.ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("{} does not list what was just written; it cannot hold snapshots", root.uri()),
        )
    })
}
