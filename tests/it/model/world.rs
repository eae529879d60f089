//! One root that several processes share: every operation that matters waits at a gate until the search lets it
//! through.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use object_store::GetOptions;
use tokio::sync::{Notify, oneshot};

use super::clock::Ahead;
use super::lies::Lie;
use super::names::{Names, hash};
use super::ops::{self, Done, Op, Reply};
use super::rules::Rules;

/// An object of the store.
#[derive(Clone)]
pub struct Object {
    pub bytes: Bytes,
    /// Seconds by the store's clock.
    pub written: i64,
    /// Which process wrote it.
    pub by: Option<usize>,
    /// Follows from who wrote it and what that process had seen: equal in two executions where the content is.
    pub id: u64,
}

pub type Objects = BTreeMap<String, Object>;

/// What a process ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It was told that it published this snapshot.
    Published(u64),
    /// It was told that another was first, or that there is nothing to do.
    Nothing,
    /// It did something else; what, for people.
    Did(String),
    /// An error that asks to run again.
    Again(String),
    /// Any other error.
    Failed(String),
    /// It was killed.
    Killed,
}

struct Waiting {
    op: Op,
    reply: oneshot::Sender<Reply>,
}

/// A process as the store knows it.
pub struct Process {
    waiting: VecDeque<Waiting>,
    pub told: Option<Told>,
    /// Hash of all that it has asked and was answered: its state follows from it.
    seen: u64,
    parked: bool,
    parks: u64,
    /// Threads of its runtime that work beside it.
    pub busy: u32,
    pub killed: bool,
    pub ahead: Arc<Ahead>,
    pub wake: Arc<Notify>,
    pub kill: Arc<Notify>,
    /// How long it is made to wait when it sleeps next.
    step: Duration,
    /// It slept since it was let through last.
    slept: bool,
    /// What it has asked since somebody else changed something.
    asked: HashSet<u64>,
    /// What it has asked since it did anything but look for leases: what stands here twice it waits for.
    waits: HashSet<u64>,
    /// Seconds that passed while it stood still with its clock.
    dozed: i64,
}

pub struct State {
    pub objects: Objects,
    /// Seconds by the store's clock.
    pub now: i64,
    pub names: Names,
    pub processes: Vec<Process>,
    pub trace: Vec<String>,
    pub rules: Rules,
    lies: Vec<Vec<Lie>>,
    apart: bool,
    machine: Option<String>,
}

pub struct World {
    state: Mutex<State>,
    changed: Condvar,
    fine: bool,
}

/// A process that wants to go on.
pub struct Ready {
    pub process: usize,
    /// What it asks for.
    pub shape: u64,
    /// It only looks again at what it has seen already.
    pub polls: bool,
    /// It waited for somebody before it asked.
    pub slept: bool,
    pub writes: bool,
    /// What it has sent changes what is published or deletes a file.
    pub lasting: bool,
}

/// A thread that is parked for this long with nothing to wait for is asleep.
const ASLEEP: Duration = Duration::from_micros(200);
/// No step of the real code takes this long.
const HANGS: Duration = Duration::from_secs(120);

impl World {
    /// `fine`: reads of files wait at the gate too. `apart`: every process runs on a machine of its own.
    pub fn new(
        objects: Objects,
        lies: Vec<Vec<Lie>>,
        rules: Rules,
        fine: bool,
        apart: bool,
    ) -> Arc<Self> {
        let mut names = Names::default();
        objects.keys().for_each(|key| drop(names.of(key, None)));
        let processes = lies.iter().map(|_| Process {
            waiting: VecDeque::new(),
            told: None,
            seen: 0,
            parked: false,
            parks: 0,
            busy: 0,
            killed: false,
            ahead: Arc::default(),
            wake: Arc::default(),
            kill: Arc::default(),
            step: Duration::ZERO,
            slept: false,
            asked: HashSet::new(),
            waits: HashSet::new(),
            dozed: 0,
        });
        let processes = processes.collect();
        let (trace, machine) = (Vec::new(), None);
        let state = State { objects, now: 0, names, processes, trace, rules, lies, apart, machine };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), fine })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes what is known of a process.
    pub fn tell(&self, process: usize, change: impl FnOnce(&mut Process)) {
        change(&mut self.lock().processes[process]);
        self.changed.notify_all();
    }

    pub fn parked(&self, process: usize, parked: bool) {
        self.tell(process, |process| {
            process.parked = parked;
            process.parks += 1;
        });
    }

    /// What a process asks of the store. Without a process it is the test itself, which sees all.
    pub async fn ask(&self, process: Option<usize>, op: Op) -> Reply {
        let Some(at) = process else { return self.lock().perform(None, &op, Done::Fully) };
        let answer = {
            let mut state = self.lock();
            if state.processes[at].killed {
                None
            } else if self.fine || op.matters() {
                let (reply, answer) = oneshot::channel();
                state.processes[at].waiting.push_back(Waiting { op, reply });
                self.changed.notify_all();
                Some(answer)
            } else {
                return state.perform(process, &op, Done::Fully);
            }
        };
        match answer {
            Some(answer) => match answer.await {
                Ok(reply) => reply,
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Waits until every process stands at the gate or has ended; who sleeps is woken.
    pub fn settle(&self) {
        let mut state = self.lock();
        let mut since = Instant::now();
        loop {
            let running = |process: &Process| {
                process.told.is_none() && (process.waiting.is_empty() || !process.parked)
            };
            let Some(at) = state.processes.iter().position(running) else { return };
            let process = &state.processes[at];
            let idle = process.parked && process.busy == 0;
            let parks = process.parks;
            // The longer it sleeps, the longer it is watched: it may be waiting for a thread that is about to start.
            let naps = process.step.as_millis().div_ceil(25).clamp(1, 32) as u32;
            let patience = if idle { ASLEEP * naps } else { Duration::from_secs(1) };
            let (next, timeout) = self.changed.wait_timeout(state, patience).unwrap();
            state = next;
            let process = &mut state.processes[at];
            if !timeout.timed_out() || process.told.is_some() {
                since = Instant::now();
            } else if idle && process.parked && process.busy == 0 && process.parks == parks {
                process.slept = true;
                process.step =
                    (process.step * 2).clamp(Duration::from_millis(25), Duration::from_secs(2));
                process.ahead.run(process.step);
                process.stir();
                since = Instant::now();
            }
            assert!(since.elapsed() < HANGS, "process {at} hangs: {:#?}", state.trace);
        }
    }

    /// Who stands at the gate.
    pub fn ready(&self) -> Vec<Ready> {
        let state = self.lock();
        let ready = state.processes.iter().enumerate().filter_map(|(at, process)| {
            let next = process.waiting.front().filter(|_| process.told.is_none())?;
            // A machine that is busy may make a process look asleep that only computes: that asks for something else
            // next.
            let shape = next.op.shape();
            let slept = process.slept && process.waits.contains(&shape);
            let polls = slept && process.asked.contains(&shape);
            let (writes, lasting) = (next.op.writes(), next.op.lasts());
            Some(Ready { process: at, shape, polls, slept, writes, lasting })
        });
        ready.collect()
    }

    /// Lets one operation of a process through.
    pub fn let_through(&self, process: usize, how: Done) {
        let mut state = self.lock();
        let entry = &mut state.processes[process];
        let Some(Waiting { op, reply }) = entry.waiting.pop_front() else { return };
        (entry.parked, entry.slept, entry.step) = (false, false, Duration::ZERO);
        if !op.key().starts_with("leases") {
            entry.waits.clear();
        }
        entry.waits.insert(op.shape());
        entry.asked.insert(op.shape());
        let answer = state.perform(Some(process), &op, how);
        drop(state);
        // The process may have dropped the request; then nobody waits for the answer.
        if reply.send(answer).is_err() {
            self.lock().processes[process].stir();
        }
    }

    /// Ends a process where it stands: what it has asked for last is not done.
    pub fn kill(&self, process: usize) {
        let mut state = self.lock();
        let entry = &mut state.processes[process];
        entry.killed = true;
        entry.parked = false;
        entry.kill.notify_one();
        let waiting = std::mem::take(&mut entry.waiting);
        state.rules.died(process);
        state.trace.push(format!("{process} is killed"));
        drop(state);
        drop(waiting);
    }

    /// Time passes, for the store and for all processes but the one that stands still with its machine. A `paused`
    /// machine knows nothing of it, one that is suspended can ask.
    pub fn pass(&self, seconds: i64, still: Option<usize>, paused: bool) {
        let mut state = self.lock();
        state.now += seconds;
        let while_still = match still {
            Some(process) => format!(" while the machine of {process} stands still"),
            None => String::new(),
        };
        state.trace.push(format!("{seconds} s pass{while_still}"));
        let time = Duration::from_secs(seconds.unsigned_abs());
        for (at, process) in state.processes.iter_mut().enumerate() {
            process.asked.clear();
            if Some(at) == still {
                process.dozed += seconds;
                if !paused {
                    process.ahead.suspend(time);
                }
            } else if process.told.is_none() {
                process.ahead.run(time);
                process.stir();
            }
        }
    }

    /// The store's clock.
    pub fn now(&self) -> DateTime<Utc> {
        let state = self.lock();
        state.time(state.now)
    }
}

impl Process {
    /// Has its runtime look at the clock again.
    fn stir(&mut self) {
        self.parked = false;
        self.wake.notify_one();
    }
}

impl State {
    /// Equal where everything that can still happen is.
    pub fn fingerprint(&mut self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.now.hash(&mut hasher);
        for (key, object) in &self.objects {
            (self.names.of(key, None), object.written, object.id).hash(&mut hasher);
        }
        for process in &self.processes {
            (process.seen, &process.told.is_some(), process.dozed).hash(&mut hasher);
            process.killed.hash(&mut hasher);
        }
        hasher.finish()
    }

    fn time(&self, seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds)
    }

    /// Does what was asked.
    pub fn perform(&mut self, process: Option<usize>, op: &Op, how: Done) -> Reply {
        let name = self.names.of(op.key(), process);
        let label = format!("{} {name}", op.verb());
        if how == Done::NotAtAll {
            self.note(process, &label, "fails", 1);
            return op.broken();
        }
        let (reply, digest, outcome) = match op {
            Op::Put { key, bytes, create } => self.put(process, key, bytes, *create),
            Op::Get { key, options } => self.get(process, key, options),
            Op::Delete { key } => self.delete(process, key),
            Op::List { prefix } => self.list(process, prefix),
        };
        if how == Done::Unheard {
            self.note(process, &label, &format!("{outcome}, unheard"), 2);
            return op.broken();
        }
        self.note(process, &label, outcome, digest);
        reply
    }

    fn note(&mut self, process: Option<usize>, label: &str, outcome: &str, digest: u64) {
        let Some(at) = process else { return };
        let seen = &mut self.processes[at].seen;
        *seen = hash(&(*seen, label, digest));
        let outcome = if outcome.is_empty() { String::new() } else { format!(": {outcome}") };
        self.trace.push(format!("{at} {label}{outcome}"));
    }

    /// Something changed that others may have waited for.
    fn stirs(&mut self, by: Option<usize>) {
        for (at, process) in self.processes.iter_mut().enumerate() {
            if Some(at) != by {
                process.asked.clear();
            }
        }
    }

    fn lied_to(&self, process: Option<usize>, lie: &Lie) -> bool {
        process.is_some_and(|at| self.lies[at].contains(lie))
    }

    fn put(
        &mut self,
        process: Option<usize>,
        key: &str,
        bytes: &Bytes,
        create: bool,
    ) -> (Reply, u64, &'static str) {
        let overwrites = self.lied_to(process, &Lie::Overwrites);
        if create && !overwrites && self.objects.contains_key(key) {
            return (ops::exists(key), 0, "is there");
        }
        let bytes = self.as_stored(process, key, bytes);
        let seen = process.map_or_else(|| hash(&bytes), |at| self.processes[at].seen);
        let id = hash(&(process, seen, self.names.of(key, process)));
        let object = Object { bytes, written: self.now, by: process, id };
        let before = self.objects.insert(key.to_owned(), object);
        self.rules.put(process, key, &self.objects, before.as_ref());
        self.stirs(process);
        (ops::stored(), 1, "")
    }

    fn get(
        &mut self,
        process: Option<usize>,
        key: &str,
        options: &GetOptions,
    ) -> (Reply, u64, &'static str) {
        let deaf = |at: usize| {
            let own = self.objects.get(key).is_some_and(|object| object.by == process);
            own && self.lies[at]
                .iter()
                .any(|lie| matches!(lie, Lie::Deaf(folder) if key.starts_with(folder)))
        };
        if process.is_some_and(deaf) {
            return (ops::missing(key), 0, "is said not to be there");
        }
        if let Some(object) = self.objects.get(key).cloned() {
            let bytes = self.as_read(process, key, &object.bytes);
            let lies = process.map_or(&[][..], |at| &self.lies[at]);
            let older: i64 = lies.iter().map(|lie| lie.ages(key)).sum();
            let modified = self.time(object.written - older);
            return (ops::found(key, bytes, modified, options), object.id, "");
        }
        // What was there once is said to be there, by a look that reads nothing.
        if options.head
            && self.lied_to(process, &Lie::StillThere)
            && let Some(bytes) = self.rules.once(key)
        {
            return (ops::found(key, bytes, self.time(0), options), 2, "still said to be there");
        }
        (ops::missing(key), 0, "is not there")
    }

    fn delete(&mut self, process: Option<usize>, key: &str) -> (Reply, u64, &'static str) {
        if self.lied_to(process, &Lie::Keeps) && !key.starts_with("leases/") {
            return (Reply::Delete(Ok(())), 1, "kept in silence");
        }
        let gone = self.objects.remove(key);
        let was_there = gone.is_some();
        if let Some(gone) = gone {
            self.rules.delete(process, (key, &gone), &self.objects, self.now);
            self.stirs(process);
        }
        (Reply::Delete(Ok(())), u64::from(was_there), if was_there { "" } else { "is not there" })
    }

    fn list(&mut self, process: Option<usize>, prefix: &str) -> (Reply, u64, &'static str) {
        let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let mut listed = Vec::new();
        let mut seen = Vec::new();
        let within = self.objects.range(folder.clone()..);
        for (key, object) in within.take_while(|(key, _)| key.starts_with(&folder)) {
            let lies = process.map_or(&[][..], |at| &self.lies[at]);
            if lies.iter().any(|lie| lie.hides(key)) {
                continue;
            }
            let older: i64 = lies.iter().map(|lie| lie.ages(key)).sum();
            let written = object.written - older;
            seen.push((self.names.of(key, None), object.id, written));
            listed.push(ops::meta(key, &object.bytes, self.time(written)));
        }
        (Reply::List(Ok(listed)), hash(&seen), "")
    }

    /// A lease says on which machine its holder runs: where processes run apart, each has one of its own.
    fn as_stored(&mut self, process: Option<usize>, key: &str, bytes: &Bytes) -> Bytes {
        let bytes = match process.filter(|_| self.lied_to(process, &Lie::ForgetsPurged)) {
            Some(_) => ops::edited(bytes, key, "snapshots/", |manifest| {
                manifest.remove("purged").is_some()
            }),
            None => bytes.clone(),
        };
        let Some(at) = process.filter(|_| self.apart) else { return bytes };
        let machine = &mut self.machine;
        ops::edited(&bytes, key, "leases/", |lease| match lease.get_mut("machine") {
            Some(place) => {
                let real = std::mem::replace(place, format!("machine {at}").into());
                *machine = machine.take().or_else(|| real.as_str().map(str::to_owned));
                true
            }
            None => false,
        })
    }

    fn as_read(&self, process: Option<usize>, key: &str, bytes: &Bytes) -> Bytes {
        let (Some(at), Some(real)) = (process, &self.machine) else { return bytes.clone() };
        ops::edited(bytes, key, "leases/", |lease| match lease.get_mut("machine") {
            Some(place) if *place == format!("machine {at}") => {
                *place = real.clone().into();
                true
            }
            _ => false,
        })
    }
}
