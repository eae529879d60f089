//! Short leases that keep a commit and a gc batch from running into each other.

use std::time::Duration;

use chrono::Utc;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Listed, Root, layout};

/// A lease older than this belongs to something that died: both sides finish far earlier or give up.
pub(super) const STALE: chrono::TimeDelta = chrono::TimeDelta::minutes(15);
/// How long a commit may take from its lease to its put.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long a commit waits for a gc batch.
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

/// A lease that is in the store. [`Lease::release`] takes it away; a process that dies leaves it to go stale.
pub(super) struct Lease<'a> {
    root: &'a Root,
    key: String,
    taken: tokio::time::Instant,
}

#[derive(Serialize)]
struct Holder<'a> {
    kind: &'a str,
    process: u32,
    taken_at: String,
}

impl<'a> Lease<'a> {
    pub(super) async fn take(root: &'a Root, kind: Kind) -> Result<Self> {
        let key = layout::lease(kind.name(), &format!("{:016x}", rand::random::<u64>()));
        let holder = Holder {
            kind: kind.name(),
            process: std::process::id(),
            taken_at: Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        };
        let text = serde_json::to_vec(&holder)
            .map_err(|cause| Error::internal("lease as JSON").with_source(cause))?;
        let taken = tokio::time::Instant::now();
        let lease = Self { root, key, taken };
        if let Err(error) = root.put(&lease.key, text.into()).await {
            // It may be there all the same, and would hold the other side up until it goes stale.
            lease.release().await;
            return Err(error);
        }
        Ok(lease)
    }

    /// Takes the lease away; one that cannot be deleted goes stale by itself.
    pub(super) async fn release(self) {
        if let Err(error) = self.root.delete(&self.key).await {
            tracing::warn!(key = %self.key, %error, "a lease could not be released; it goes stale in 15 minutes");
        }
    }

    /// Whether anyone holds a lease of `kind` that is not stale, by the store's clock: this lease's own time stamp
    /// and how long ago it was taken, so no machine's clock counts.
    pub(super) async fn held(&self, kind: Kind) -> Result<bool> {
        let listed = self.root.list(layout::LEASES).await?;
        let Some(own) = listed.iter().find(|lease| lease.key == self.key) else {
            return Err(Error::new(
                ErrorKind::Transient,
                format!("the lease {} is gone: it went stale or was removed; run again", self.key),
            ));
        };
        let age = chrono::TimeDelta::from_std(self.taken.elapsed()).unwrap_or(STALE);
        let now = own.modified + age;
        let of_kind = format!("{}/{}-", layout::LEASES, kind.name());
        let fresh = |lease: &Listed| now - lease.modified < STALE;
        Ok(listed.iter().any(|lease| lease.key.starts_with(&of_kind) && fresh(lease)))
    }

    /// As [`check_store`], with this lease as the name that is taken.
    pub(super) async fn check_store(&self) -> Result<()> {
        self.root.require_conditional_create(&self.key).await
    }

    /// How long ago it was taken.
    pub(super) fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    /// Waits until nobody holds a lease of `kind`.
    pub(super) async fn wait_for(&self, kind: Kind) -> Result<()> {
        let mut pause = Duration::from_millis(20);
        while self.held(kind).await? {
            if self.age() > PATIENCE {
                return Err(Error::new(
                    ErrorKind::Transient,
                    format!(
                        "a {} of {} is going on; run again when it is done",
                        kind.name(),
                        self.root.uri()
                    ),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Ok(())
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
pub async fn store_time(root: &Root) -> Result<chrono::DateTime<Utc>> {
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
