//! All connections, and which of them makes room when there is none left.
//!
//! Who has used up the most of the patience that its phase gives goes first, by as much sooner as its address has more
//! connections (or as it holds more memory). So a client that sends its request at once always gets in, however many
//! others send half of one. A client that waits for the server is never cut off, nor one that has only just begun to
//! keep it waiting: where there are only such clients, the next connection is taken in a moment later. What the server
//! itself takes to read what has arrived, or to write what it has computed, is not held against a client: on a busy
//! machine that is long.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::descriptors;
use super::held::{Account, Pool};
use super::phase::{Patience, Phase, Reason};
use crate::serve::limits::Limits;

/// Who has kept the server waiting for less has sent what it had to, as far as anybody can know.
const PROMPT: Duration = Duration::from_millis(100);
/// When to look again whether one can be closed, where none could.
const AGAIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(in crate::serve) struct Connections {
    places: usize,
    patience: Patience,
    pool: Arc<Pool>,
    table: Mutex<Table>,
    /// Told when one has gone.
    freed: Notify,
    accepted: AtomicU64,
    closed: [AtomicU64; Reason::NAMES.len()],
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    by_peer: HashMap<IpAddr, usize>,
    next: u64,
    /// Entries that were told to close.
    closing: usize,
}

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    phase: Phase,
    since: Instant,
    /// Bytes sent in this phase.
    moved: u64,
    /// Since when the system has taken nothing more of an answer, because the client does not read.
    stuck: Option<Instant>,
    account: Arc<Account>,
    told: Arc<Notify>,
    /// Why it has to go, and since when.
    why: Option<(Reason, Instant)>,
}

impl Entry {
    fn begin(&mut self, phase: Phase) {
        (self.phase, self.since, self.moved, self.stuck) = (phase, Instant::now(), 0, None);
    }
}

/// Counters for metrics.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::serve) struct Counts {
    pub open: usize,
    pub held: usize,
    pub accepted: u64,
    /// In the order of [`Reason::NAMES`].
    pub closed: [u64; Reason::NAMES.len()],
}

impl Connections {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            places: descriptors::connections(limits.connections.max(1)),
            patience: Patience::of(limits),
            pool: Pool::new(limits.held),
            table: Mutex::default(),
            freed: Notify::new(),
            accepted: AtomicU64::default(),
            closed: Default::default(),
        })
    }

    /// A place for a connection from `address`, as soon as there is one.
    pub async fn admit(self: &Arc<Self>, address: IpAddr) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_admit(address) {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                return place;
            }
            let _ = tokio::time::timeout(AGAIN, freed).await;
        }
    }

    fn try_admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut table = self.lock();
        if table.entries.len() >= self.places {
            // One at a time: the one that was told last is about to go.
            if table.closing == 0 {
                self.close_worst(&mut table, Reason::Place);
            }
            return None;
        }
        let id = table.next;
        table.next += 1;
        let (peer, told) = (peer(address), Arc::new(Notify::new()));
        let entry = Entry {
            peer,
            phase: Phase::Head,
            since: Instant::now(),
            moved: 0,
            stuck: None,
            account: Account::new(&self.pool),
            told: Arc::clone(&told),
            why: None,
        };
        table.entries.insert(id, entry);
        *table.by_peer.entry(peer).or_default() += 1;
        Some(Place { id, all: Arc::clone(self), told })
    }

    /// Closes one connection for want of descriptors; false where all are at work.
    pub(super) fn shed(&self) -> bool {
        self.close_worst(&mut self.lock(), Reason::Descriptors)
    }

    fn close_worst(&self, table: &mut Table, why: Reason) -> bool {
        let Some(id) = self.worst(table, Table::connections_of) else { return false };
        self.tell(table, id, why);
        true
    }

    /// Takes memory for connection `id`, that of others too where they have kept the server waiting.
    fn hold(&self, id: u64, account: &Account, bytes: usize) -> Result<(), Full> {
        while !account.take(bytes) {
            let mut table = self.lock();
            match self.worst(&table, Table::bytes_of) {
                Some(worst) if worst != id => self.tell(&mut table, worst, Reason::Memory),
                _ => return Err(Full),
            }
        }
        Ok(())
    }

    /// The connection with the most of `weight` and of its patience used up.
    fn worst(&self, table: &Table, weight: fn(&Table, &Entry) -> usize) -> Option<u64> {
        let now = Instant::now();
        let score = |entry: &Entry| {
            let patience = self.patience.with(entry.phase, entry.moved)?;
            let used = now.saturating_duration_since(entry.since);
            let waiting = match entry.phase {
                Phase::Answer => now.saturating_duration_since(entry.stuck?),
                _ => used,
            };
            let share = used.as_secs_f64() / patience.as_secs_f64().max(1e-3);
            let score = share * weight(table, entry) as f64;
            (entry.why.is_none() && waiting >= PROMPT && score > 0.0).then_some(score)
        };
        let scored = table.entries.iter().filter_map(|(id, entry)| Some((score(entry)?, *id)));
        scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, id)| id)
    }

    fn tell(&self, table: &mut Table, id: u64, why: Reason) {
        let Some(entry) = table.entries.get_mut(&id).filter(|entry| entry.why.is_none()) else {
            return;
        };
        entry.why = Some((why, Instant::now()));
        if why == Reason::Memory {
            entry.account.give_back();
        }
        entry.told.notify_one();
        table.closing += 1;
    }

    fn count(&self, why: Reason) {
        self.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            open: self.lock().entries.len(),
            held: self.pool.held(),
            accepted: self.accepted.load(Ordering::Relaxed),
            closed: std::array::from_fn(|at| self.closed[at].load(Ordering::Relaxed)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn connections_of(&self, entry: &Entry) -> usize {
        self.by_peer.get(&entry.peer).copied().unwrap_or(1)
    }

    fn bytes_of(&self, entry: &Entry) -> usize {
        entry.account.bytes()
    }
}

/// Addresses that one client can choose from at will count as one.
fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

/// A connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(in crate::serve) struct Place {
    id: u64,
    all: Arc<Connections>,
    told: Arc<Notify>,
}

/// There is no memory left for this request.
#[derive(Debug)]
pub(in crate::serve) struct Full;

/// What the current request and its answer hold. It may outlast the connection: a search that nobody waits for any more
/// still holds what it reads.
#[derive(Debug, Clone)]
pub(in crate::serve) struct Holding {
    id: u64,
    all: Arc<Connections>,
    account: Arc<Account>,
}

impl Place {
    pub(super) fn enter(&self, phase: Phase) {
        self.change(|entry, pool| {
            if phase == Phase::Idle {
                // What is still held of the last request is given back later.
                entry.account = Account::new(pool);
            }
            entry.begin(phase);
        });
    }

    /// The body has been read: from here on it is the client who waits.
    pub fn has_body(&self) {
        self.enter(Phase::Working);
    }

    /// Whether a request's body is not there yet.
    pub fn awaits_body(&self) -> bool {
        self.phase() == Some(Phase::Body)
    }

    /// Bytes came in.
    pub(super) fn received(&self, bytes: usize) {
        let mut head = None;
        self.change(|entry, _| {
            if entry.phase == Phase::Idle {
                entry.begin(Phase::Head);
            }
            head = (entry.phase == Phase::Head).then(|| Arc::clone(&entry.account));
        });
        let Some(account) = head else { return };
        if self.all.hold(self.id, &account, bytes).is_err() {
            self.all.tell(&mut self.all.lock(), self.id, Reason::Memory);
        }
    }

    /// Bytes went out.
    pub(super) fn sent(&self, bytes: usize) {
        self.change(|entry, _| {
            if entry.phase == Phase::Idle {
                entry.begin(Phase::Answer);
            }
            entry.moved += bytes as u64;
            entry.stuck = None;
        });
    }

    /// The system takes nothing more until the client has read.
    pub(super) fn stuck(&self) {
        self.change(|entry, _| {
            entry.stuck.get_or_insert_with(Instant::now);
        });
    }

    /// Everything that was to be sent is.
    pub(super) fn flushed(&self) {
        if self.phase() == Some(Phase::Answer) {
            self.enter(Phase::Idle);
        }
    }

    fn phase(&self) -> Option<Phase> {
        self.all.lock().entries.get(&self.id).map(|entry| entry.phase)
    }

    /// When the client's time is over, and why it is closed then. A request that is not answered in time has a limit of
    /// its own, which tells the client.
    pub(super) fn deadline(&self) -> Option<(Instant, Reason)> {
        let table = self.all.lock();
        let entry = table.entries.get(&self.id)?;
        let why = match entry.phase {
            Phase::Head => Reason::Head,
            Phase::Answer => Reason::Unread,
            Phase::Idle => Reason::Idle,
            Phase::Body | Phase::Working => return None,
        };
        let patience = self.all.patience.with(entry.phase, entry.moved)?;
        Some((entry.since + patience, why))
    }

    /// Ends when this connection has to go for another.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    /// Whether it need not go after all: since it was told to, what it was waited for has come.
    pub(super) fn may_stay(&self) -> bool {
        let mut table = self.all.lock();
        let Some(entry) = table.entries.get_mut(&self.id) else { return false };
        let stays = |(why, since): (Reason, Instant)| why != Reason::Memory && entry.since > since;
        if !entry.why.is_some_and(stays) {
            return false;
        }
        entry.why = None;
        table.closing -= 1;
        true
    }

    /// Counts why it is closed.
    pub(super) fn closed(&self, why: Reason) {
        self.all.count(why);
    }

    /// What the current request holds.
    pub fn holding(&self) -> Holding {
        let account = self.all.lock().entries.get(&self.id).map(|entry| Arc::clone(&entry.account));
        let account = account.unwrap_or_else(|| Account::new(&self.all.pool));
        Holding { id: self.id, all: Arc::clone(&self.all), account }
    }

    fn change(&self, change: impl FnOnce(&mut Entry, &Arc<Pool>)) {
        if let Some(entry) = self.all.lock().entries.get_mut(&self.id) {
            change(entry, &self.all.pool);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.all.lock();
        if let Some(entry) = table.entries.remove(&self.id) {
            if let Some((why, _)) = entry.why {
                table.closing -= 1;
                self.all.count(why);
            }
            if let Some(count) = table.by_peer.get_mut(&entry.peer) {
                *count -= 1;
                if *count == 0 {
                    table.by_peer.remove(&entry.peer);
                }
            }
        }
        drop(table);
        self.all.freed.notify_one();
    }
}

impl Holding {
    /// Takes memory for this many bytes, that of others too where they have kept the server waiting.
    pub fn hold(&self, bytes: usize) -> Result<(), Full> {
        self.all.hold(self.id, &self.account, bytes)
    }
}

#[cfg(test)]
mod tests;
