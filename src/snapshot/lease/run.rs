//! The lease of a run: one run of a root at a time, told to the second at once, taken over when the first is dead.
//!
//! Mutual exclusion saves work; it is not what keeps a root right. Only the conditional commit does that, so a
//! run that stood still, lost its lease and does not know it yet cannot do harm.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::holder::{HeldHere, Holder};
use super::leases::{Leases, STALE, content, holder, remove, wait_for_gc};
use super::since::Since;
use crate::error::{Error, ErrorKind, Result};
use crate::store::layout::{self, Key};
use crate::store::{PutOutcome, Root};

/// Tries where other runs come and go while this one takes its lease.
const TRIES: u32 = 8;

/// The lease that a run holds; a process that dies leaves it to go stale.
#[derive(Debug)]
pub struct RunLease {
    root: Root,
    run: String,
    number: u64,
    beats: AtomicU64,
    _held: HeldHere,
}

/// What [`RunLease::take`] found.
#[derive(Debug)]
pub enum Taken {
    /// The lease is ours.
    Ours(RunLease),
    /// Another run is alive.
    Busy(Holder),
}

impl Taken {
    /// The lease, or the error that says who holds it.
    pub fn or_busy(self, root: &Root) -> Result<RunLease> {
        match self {
            Self::Ours(lease) => Ok(lease),
            Self::Busy(holder) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "run {} of {} is in progress: process {} on {} since {}",
                    holder.run,
                    root.uri(),
                    holder.process,
                    holder.host,
                    holder.taken_at
                ),
            )),
        }
    }
}

impl RunLease {
    /// How often to call [`RunLease::beat`]; ten missed ones make a lease stale.
    pub const BEAT_EVERY: Duration = Duration::from_secs(30);

    /// Takes the lease for `run` unless another run is alive: its process on this machine is, or elsewhere it
    /// had a heartbeat in the last five minutes by the store's clock. Returns once no gc batch is under way.
    ///
    /// # Errors
    /// What the store says; the lease is then not held.
    pub async fn take(root: &Root, run: &str) -> Result<Taken> {
        for _ in 0..TRIES {
            let newest = newest(root).await?;
            if let Some(number) = newest {
                match living(root, &layout::run_lease(number)).await? {
                    Some(holder) => return Ok(Taken::Busy(holder)),
                    None => tracing::info!(number, "taking over from a run that is dead"),
                }
            }
            let number = newest.map_or(1, |number| number + 1);
            if let Some(lease) = Self::put(root, run, number).await? {
                return lease.settle().await;
            }
        }
        Err(Error::transient(format!(
            "leases of {} come and go while a run wants to start; run again",
            root.uri()
        )))
    }

    /// `None` where another run took this number first.
    async fn put(root: &Root, run: &str, number: u64) -> Result<Option<Self>> {
        let lease = Self {
            root: root.clone(),
            run: run.to_owned(),
            number,
            beats: AtomicU64::new(0),
            _held: HeldHere::new(run),
        };
        let outcome = root.put_if_absent(&lease.key(), content("run", run)?.into()).await;
        if matches!(outcome, Ok(PutOutcome::Created)) {
            return Ok(Some(lease));
        }
        // The acknowledgement may have been lost, here or where the client retried.
        match holder(root, &lease.key()).await {
            Ok(Some(there)) if there.run == run => Ok(Some(lease)),
            Ok(_) => outcome.map(|_| None),
            Err(unknown) => {
                // If it is ours, nobody must wait for it.
                if outcome.is_err() {
                    lease.release().await;
                }
                outcome.and(Err(unknown))
            }
        }
    }

    /// The lease is in the store. Two runs that both found none, one of them by an old listing, may hold different
    /// numbers: the one that sees the other withdraws. Leases of dead runs are deleted.
    async fn settle(self) -> Result<Taken> {
        let settled = async {
            let taken = Since::now();
            let others = Leases::see(&self.root, &self.key(), taken).await?;
            for key in others.runs().filter(|key| *key != self.key()) {
                if let Some(holder) = living(&self.root, key).await? {
                    return Ok(Some(holder));
                }
                remove(&self.root, key).await;
            }
            for (key, lease) in &others.listed {
                if matches!(key, Key::Beat { .. }) && others.now - lease.modified > STALE {
                    remove(&self.root, &lease.key).await;
                }
            }
            wait_for_gc(&self.root, &self.key(), taken).await.map(|()| None)
        };
        let refused = match settled.await {
            Ok(None) => return Ok(Taken::Ours(self)),
            Ok(Some(holder)) => Ok(Taken::Busy(holder)),
            Err(error) => Err(error),
        };
        self.release().await;
        refused
    }

    fn key(&self) -> String {
        layout::run_lease(self.number)
    }

    /// Says that the run is alive.
    ///
    /// # Errors
    /// As [`RunLease::check`].
    pub async fn beat(&self) -> Result<()> {
        self.check().await?;
        let number = self.beats.fetch_add(1, Ordering::AcqRel) + 1;
        self.root.put(&layout::beat(&self.run, number), content("beat", &self.run)?.into()).await?;
        if number > 1 {
            remove(&self.root, &layout::beat(&self.run, number - 1)).await;
        }
        Ok(())
    }

    /// Whether the lease is still this run's.
    ///
    /// # Errors
    /// Conflict where another run took over, or the lease was removed; what the store says.
    pub async fn check(&self) -> Result<()> {
        let newest = newest(&self.root).await?;
        if newest == Some(self.number) && self.is_in_it().await? {
            return Ok(());
        }
        let winner = match newest.filter(|number| *number != self.number) {
            Some(number) => holder(&self.root, &layout::run_lease(number)).await?,
            None => None,
        };
        let winner = winner.map_or_else(
            || "its lease was taken away".to_owned(),
            |winner| format!("run {} on {} took over", winner.run, winner.host),
        );
        Err(Error::conflict(format!(
            "run {} was suspended for so long that {winner}; what was finished is kept",
            self.run
        )))
    }

    async fn is_in_it(&self) -> Result<bool> {
        Ok(holder(&self.root, &self.key()).await?.is_some_and(|holder| holder.run == self.run))
    }

    /// Lets the next run start.
    pub async fn release(self) {
        // Its number may be another's by now; where the store does not say, the lease goes stale.
        if self.is_in_it().await.unwrap_or(false) {
            remove(&self.root, &self.key()).await;
        }
        if self.beats.load(Ordering::Acquire) == 0 {
            return;
        }
        for lease in self.root.list(layout::LEASES).await.unwrap_or_default() {
            if matches!(layout::parse(&lease.key), Some(Key::Beat { run, .. }) if run == self.run) {
                remove(&self.root, &lease.key).await;
            }
        }
    }
}

/// Whether `run` holds the lease of its root: it did not end, and no other run took over from it. For those who work
/// for a run on other machines and cannot see it.
///
/// # Errors
/// What the store says.
pub async fn is_current_run(root: &Root, run: &str) -> Result<bool> {
    let Some(number) = newest(root).await? else { return Ok(false) };
    Ok(holder(root, &layout::run_lease(number)).await?.is_some_and(|holder| holder.run == run))
}

/// The number of the lease that counts.
async fn newest(root: &Root) -> Result<Option<u64>> {
    let listed = root.list(layout::LEASES).await?;
    let numbers = listed.iter().filter_map(|lease| match layout::parse(&lease.key)? {
        Key::RunLease { number } => Some(number),
        _ => None,
    });
    Ok(numbers.max())
}

/// The holder of a run's lease, if it is alive.
async fn living(root: &Root, key: &str) -> Result<Option<Holder>> {
    let Some(holder) = holder(root, key).await? else { return Ok(None) };
    if holder.is_dead() {
        return Ok(None);
    }
    let leases = Leases::among(&root.list(layout::LEASES).await?, root.now().await?);
    Ok(leases.run_beats(key, &holder.run).then_some(holder))
}

/// The run that holds the lease `key`, if its heartbeat is fresh: for gc, which deletes nothing on a guess.
pub async fn living_run(root: &Root, key: &str, leases: &Leases) -> Result<Option<String>> {
    let Some(holder) = holder(root, key).await? else { return Ok(None) };
    Ok(leases.run_beats(key, &holder.run).then_some(holder.run))
}
