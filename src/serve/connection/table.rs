//! All connections, and which of them makes room when there is none left.
//!
//! Who has used up the most of the patience that its phase gives goes first, by as much sooner as its address has more
//! connections (or as it holds more memory). So a client that sends its request at once always gets in, however many others
//! send half of one. A client that waits for the server is never cut off, nor one that has only just begun to keep it
//! waiting: where there are only such clients, the next connection is taken in a moment later.

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
    account: Arc<Account>,
    told: Arc<Notify>,
    why: Option<Reason>,
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
            let share = used.as_secs_f64() / patience.as_secs_f64().max(1e-3);
            let score = share * weight(table, entry) as f64;
            (entry.why.is_none() && used >= PROMPT && score > 0.0).then_some(score)
        };
        let scored = table.entries.iter().filter_map(|(id, entry)| Some((score(entry)?, *id)));
        scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, id)| id)
    }

    fn tell(&self, table: &mut Table, id: u64, why: Reason) {
        let Some(entry) = table.entries.get_mut(&id).filter(|entry| entry.why.is_none()) else {
            return;
        };
        entry.why = Some(why);
        entry.account.give_back();
        entry.told.notify_one();
        table.closing += 1;
        self.count(why);
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

/// What the request at hand and its answer hold. It may outlast the connection: a search that nobody waits for any more
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
                // Whoever holds something of the last request gives it back later.
                entry.account = Account::new(pool);
            }
            (entry.phase, entry.since, entry.moved) = (phase, Instant::now(), 0);
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
                (entry.phase, entry.since) = (Phase::Head, Instant::now());
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
                (entry.phase, entry.since, entry.moved) = (Phase::Answer, Instant::now(), 0);
            }
            entry.moved += bytes as u64;
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

    /// When the client's time is over, and why it is closed then. A request that is not answered in time has a limit of its
    /// own, which tells the client.
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

    /// Counts why it is closed.
    pub(super) fn closed(&self, why: Reason) {
        self.all.count(why);
    }

    /// What the request at hand holds.
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
            table.closing -= usize::from(entry.why.is_some());
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
    /// Takes memory for so many bytes, that of others too where they have kept the server waiting.
    pub fn hold(&self, bytes: usize) -> Result<(), Full> {
        self.all.hold(self.id, &self.account, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn connections(limits: Limits) -> Arc<Connections> {
        Connections::new(&Limits {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(100),
            unread: Duration::from_secs(10),
            ..limits
        })
    }

    /// Makes it look as if the phase had begun earlier.
    fn age(place: &Place, seconds: u64) {
        place.change(|entry, _| entry.since -= Duration::from_secs(seconds));
    }

    /// Which of `places` were told to go.
    fn told(all: &Connections, places: &[&Place]) -> Vec<usize> {
        let table = all.lock();
        let is_told = |place: &Place| table.entries[&place.id].why.is_some();
        (0..places.len()).filter(|&at| is_told(places[at])).collect()
    }

    #[tokio::test]
    async fn the_one_that_keeps_the_server_waiting_makes_room() {
        let all = connections(Limits { connections: 4, ..Limits::default() });
        let (half, idle) = (all.admit(ONE).await, all.admit(ONE).await);
        let (works, new) = (all.admit(ONE).await, all.admit(ONE).await);
        idle.enter(Phase::Idle);
        works.enter(Phase::Working);
        age(&half, 3);
        age(&idle, 20);
        age(&works, 1_000);
        // 3 s of 10 are more than 20 s of 100.
        assert!(all.try_admit(ONE).is_none());
        assert!(all.try_admit(ONE).is_none(), "its place is not free yet, and nobody else goes");
        assert_eq!(told(&all, &[&half, &idle, &works, &new]), [0]);
        half.told().await;
        drop(half);
        let next = all.admit(ONE).await;
        assert!(all.try_admit(ONE).is_none());
        assert_eq!(told(&all, &[&idle, &works, &new, &next]), [0]);
        assert_eq!(all.counts().closed[Reason::Place as usize], 2);
        idle.told().await;
        drop(idle);
        let last = all.admit(ONE).await;
        assert!(all.try_admit(ONE).is_none());
        assert_eq!(told(&all, &[&works, &new, &next, &last]), [0; 0], "they have only just come");
        assert_eq!((all.counts().open, all.counts().accepted), (4, 6));
    }

    #[tokio::test]
    async fn an_address_with_many_connections_goes_first() {
        let all = connections(Limits { connections: 5, ..Limits::default() });
        let honest = all.admit(OTHER).await;
        age(&honest, 3);
        let mut flood = Vec::new();
        for _ in 0..4 {
            flood.push(all.admit(ONE).await);
            age(&flood[flood.len() - 1], 1);
        }
        assert!(all.try_admit(ONE).is_none());
        assert_eq!(told(&all, &[&honest]), [0; 0]);
        drop(flood);
        assert_eq!(all.lock().by_peer.len(), 1, "none is forgotten");
        assert_eq!(all.lock().closing, 0);
        let (near, far): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::f:1".parse().unwrap());
        assert_eq!(peer(near), peer(far));
        assert_ne!(peer(near), peer("2001:db8:1::1".parse().unwrap()));
        assert_eq!(peer("::ffff:10.0.0.1".parse().unwrap()), ONE);
    }

    #[tokio::test]
    async fn memory_is_taken_from_unread_answers_first() {
        let all = connections(Limits { held: 100, connections: 9, ..Limits::default() });
        let [reads, unread, works] =
            [all.admit(ONE).await, all.admit(ONE).await, all.admit(ONE).await];
        reads.enter(Phase::Answer);
        reads.holding().hold(30).unwrap();
        unread.enter(Phase::Answer);
        unread.holding().hold(40).unwrap();
        unread.holding().hold(20).unwrap();
        works.enter(Phase::Working);
        age(&unread, 5);
        let held = works.holding();
        held.hold(60).unwrap();
        assert_eq!(told(&all, &[&reads, &unread, &works]), [1]);
        held.hold(20).unwrap_err();
        assert_eq!(
            told(&all, &[&reads, &unread, &works]),
            [1],
            "the other has only just been answered"
        );
        age(&reads, 1);
        // What it asks for is too much even if everybody else goes.
        held.hold(100).unwrap_err();
        assert_eq!(told(&all, &[&reads, &unread, &works]), [0, 1]);
        drop(works);
        assert_eq!(all.counts().held, 60, "the search goes on");
        drop(held);
        assert_eq!(all.counts().held, 0);
    }

    #[tokio::test]
    async fn phases_follow_what_moves() {
        let all = connections(Limits::default());
        let place = all.admit(ONE).await;
        let why = || place.deadline().map(|(_, why)| why);
        assert_eq!(why(), Some(Reason::Head));
        place.received(70);
        assert_eq!(all.counts().held, 70);
        place.enter(Phase::Body);
        assert!(place.awaits_body() && why().is_none());
        place.has_body();
        assert_eq!((place.awaits_body(), why()), (false, None));
        place.enter(Phase::Answer);
        let (before, _) = place.deadline().unwrap();
        place.sent(64 << 10);
        let (after, reason) = place.deadline().unwrap();
        assert_eq!((after - before, reason), (Duration::from_secs(2), Reason::Unread));
        place.flushed();
        assert_eq!((why(), all.counts().held), (Some(Reason::Idle), 0));
        place.received(1);
        assert_eq!(why(), Some(Reason::Head));
    }
}
