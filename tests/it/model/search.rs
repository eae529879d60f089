//! The search: every schedule of some processes, up to a bound.
//!
//! One execution is a list of choices: who goes on, whose request fails or is not heard of, who dies, when time passes. The
//! search runs the real code from the start for every list. Where it comes to a state that it has been in before (the
//! same objects, and every process was answered the same), with no less left of its bounds then, it turns back: the order
//! of steps that do not see each other is tried once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::names::hash;
use super::ops::Done;
use super::process;
use super::scene::{Bounds, Choice, End, Fault, Finding, Outcome, Scene, Still};
use super::world::{Ready, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Used {
    turns: u8,
    faults: u8,
    jumps: u8,
}

impl Used {
    fn within(self, bounds: Bounds) -> bool {
        bounds.turns.is_none_or(|turns| self.turns <= turns)
            && self.faults <= bounds.faults
            && self.jumps <= bounds.jumps
    }

    fn no_more_than(self, other: Self) -> bool {
        self.turns <= other.turns && self.faults <= other.faults && self.jumps <= other.jumps
    }
}

/// Choices, the last first: many lists share their beginning.
struct Path {
    choice: Choice,
    /// What the process that is chosen was about to ask for.
    shape: u64,
    before: Option<Arc<Path>>,
}

impl Path {
    fn choices(path: Option<&Arc<Self>>) -> Vec<(Choice, u64)> {
        let mut choices: Vec<(Choice, u64)> =
            std::iter::successors(path, |path| path.before.as_ref())
                .map(|path| (path.choice, path.shape))
                .collect();
        choices.reverse();
        choices
    }
}

struct Search<'a> {
    scene: &'a Scene,
    bounds: Bounds,
    until: Instant,
    seen: Mutex<HashMap<u64, Vec<Used>>>,
    /// Prefixes to be tried, and how many executions are under way.
    open: Mutex<(Vec<Option<Arc<Path>>>, usize)>,
    changed: Condvar,
    stop: AtomicBool,
    executions: AtomicU64,
    whole: AtomicU64,
    steps: AtomicU64,
    astray: AtomicU64,
    finding: Mutex<Option<Finding>>,
}

/// Forced waits after which nobody will get on any more.
const WAITS: u32 = 60;
/// How often a process that waits for another looks again before others have gone on.
const NAPS: u8 = 2;
/// Seconds that pass where everybody waits for somebody.
const WAIT: i64 = 30;

impl Scene {
    /// Searches until something is broken, all is searched, or `time` is over.
    pub fn search(&self, bounds: Bounds, time: Duration) -> Outcome {
        let search = Search {
            scene: self,
            bounds,
            until: Instant::now() + time,
            seen: Mutex::default(),
            open: Mutex::new((vec![None], 0)),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            executions: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            astray: AtomicU64::new(0),
            finding: Mutex::default(),
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| search.work());
            }
        });
        Outcome {
            executions: search.executions.into_inner(),
            whole: search.whole.into_inner(),
            steps: search.steps.into_inner(),
            astray: search.astray.into_inner(),
            states: search.seen.into_inner().unwrap().len() as u64,
            complete: !search.stop.into_inner(),
            finding: search.finding.into_inner().unwrap(),
        }
    }
}

impl Search<'_> {
    fn work(&self) {
        loop {
            let mut open = self.open.lock().unwrap();
            let prefix = loop {
                if self.stop.load(Ordering::Relaxed) || Instant::now() > self.until {
                    self.stop.store(true, Ordering::Relaxed);
                    self.changed.notify_all();
                    return;
                }
                // The newest, which ends soonest, and any other by turns: where time is short, something of everything.
                let last = open.0.len().wrapping_sub(1);
                if last != usize::MAX {
                    let at = if rand::random() { last } else { rand::random_range(0..=last) };
                    open.1 += 1;
                    break open.0.swap_remove(at);
                }
                if open.1 == 0 {
                    self.changed.notify_all();
                    return;
                }
                open = self.changed.wait_timeout(open, Duration::from_millis(100)).unwrap().0;
            };
            drop(open);
            let mut execution = Execution::new(self, Path::choices(prefix.as_ref()));
            let found = execution.run();
            let fresh = std::mem::take(&mut execution.fresh);
            let trace = found.is_some().then(|| execution.world.lock().trace.clone());
            execution.end();
            if let Some(broken) = found {
                let schedule: Vec<String> =
                    execution.choices.iter().map(Choice::to_string).collect();
                let trace = trace.unwrap_or_default();
                let finding = Finding { broken, schedule: schedule.join(" "), trace };
                self.finding.lock().unwrap().get_or_insert(finding);
                self.stop.store(true, Ordering::Relaxed);
            }
            let mut open = self.open.lock().unwrap();
            open.0.extend(fresh);
            open.1 -= 1;
            drop(open);
            self.changed.notify_all();
        }
    }

    /// Whether nobody was here with as much left of the bounds.
    fn is_new(&self, state: u64, used: Used) -> bool {
        let mut seen = self.seen.lock().unwrap();
        let before = seen.entry(state).or_default();
        if before.iter().any(|before| before.no_more_than(used)) {
            return false;
        }
        before.retain(|before| !used.no_more_than(*before));
        before.push(used);
        true
    }
}

/// What the process that is chosen is about to ask for.
fn asked(choice: Choice, ready: &[Ready]) -> u64 {
    let (Choice::Go(process, _) | Choice::Kill(process)) = choice else { return 0 };
    let chosen = ready.iter().find(|ready| ready.process == usize::from(process));
    chosen.map_or(0, |ready| ready.shape)
}

struct Execution<'a> {
    search: &'a Search<'a>,
    world: Arc<World>,
    threads: Vec<std::thread::JoinHandle<()>>,
    prefix: Vec<(Choice, u64)>,
    choices: Vec<Choice>,
    path: Option<Arc<Path>>,
    fresh: Vec<Option<Arc<Path>>>,
    used: Used,
    last: Option<usize>,
    /// How often each process looked again before others had gone on.
    naps: Vec<u8>,
    /// When each process went on last, in choices.
    ran: Vec<u64>,
}

impl<'a> Execution<'a> {
    fn new(search: &'a Search<'a>, prefix: Vec<(Choice, u64)>) -> Self {
        let scene = search.scene;
        let lies = match scene.lies.is_empty() {
            true => scene.processes.iter().map(|_| Vec::new()).collect(),
            false => scene.lies.clone(),
        };
        let rules = scene.rules.clone();
        let world = World::new(scene.objects.clone(), lies, rules, scene.fine, scene.apart);
        search.executions.fetch_add(1, Ordering::Relaxed);
        let (threads, choices, fresh, path) = (Vec::new(), Vec::new(), Vec::new(), None);
        let (used, last, many) = (Used::default(), None, scene.processes.len());
        let (naps, ran) = (vec![0; many], vec![0; many]);
        Self { search, world, threads, prefix, choices, path, fresh, used, last, naps, ran }
    }

    /// What was broken, if anything was.
    fn run(&mut self) -> Option<String> {
        for (me, body) in self.search.scene.processes.iter().enumerate() {
            self.threads.push(process::start(&self.world, me, body));
        }
        let mut waits = 0;
        loop {
            self.world.settle();
            if let Some(broken) = self.world.lock().rules.broken.clone() {
                return Some(broken);
            }
            let ready = self.world.ready();
            if ready.is_empty() {
                break;
            }
            if ready.iter().all(|ready| ready.polls) {
                waits += 1;
                if waits > WAITS {
                    return Some(
                        "everybody ends: they wait for each other for half an hour".into(),
                    );
                }
                self.world.pass(WAIT, None, false);
                continue;
            }
            let choice = match self.prefix.get(self.choices.len()).copied() {
                Some((choice, shape)) if shape == asked(choice, &ready) => choice,
                // The machine was so busy that a process saw another time than before.
                Some(_) => {
                    self.search.astray.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                None => self.choose(&ready)?,
            };
            self.make(choice, &ready);
        }
        self.search.whole.fetch_add(1, Ordering::Relaxed);
        let told = |state: &super::world::State| {
            state.processes.iter().filter_map(|process| process.told.clone()).collect()
        };
        let told = told(&self.world.lock());
        let scene = self.search.scene;
        let (world, faults) = (Arc::clone(&self.world), self.used.faults);
        let end = End { told, world, faults, one_run: scene.one_run };
        let judged = (scene.after)(&end);
        judged.err().map(|broken| format!("{broken} ({:?})", end.told))
    }

    /// Takes the first of all choices and leaves the others for later; `None` where all was seen before.
    fn choose(&mut self, ready: &[Ready]) -> Option<Choice> {
        let state = self.world.lock().fingerprint();
        // Whose turn it is decides what the next turn costs.
        let state = match self.search.bounds.turns {
            Some(_) => hash(&(state, self.last)),
            None => state,
        };
        if !self.search.is_new(state, self.used) || self.search.stop.load(Ordering::Relaxed) {
            return None;
        }
        let mut options = self.options(ready);
        let first = options.remove(0);
        let before = &self.path;
        let later = options.into_iter().map(|choice| {
            Some(Arc::new(Path { choice, shape: asked(choice, ready), before: before.clone() }))
        });
        self.fresh.extend(later);
        Some(first)
    }

    fn options(&self, ready: &[Ready]) -> Vec<Choice> {
        let scene = self.search.scene;
        let mut able: Vec<&Ready> = ready.iter().filter(|ready| !ready.polls).collect();
        // Of those who wait for others the one that has waited longest comes first.
        able.sort_by_key(|ready| match ready.slept {
            false => (false, u64::from(Some(ready.process) != self.last)),
            true => (true, self.ran[ready.process]),
        });
        able.retain(|one| !self.naps_early(one.process, ready) || self.naps[one.process] < NAPS);
        let mut options = Vec::new();
        let mut add = |choice: Choice| {
            let affordable = self.cost(choice, ready).within(self.search.bounds);
            if options.is_empty() || affordable {
                options.push(choice);
            }
        };
        for ready in &able {
            add(Choice::Go(ready.process as u8, Done::Fully));
        }
        for ready in &able {
            let process = ready.process as u8;
            for fault in &scene.faults {
                match fault {
                    Fault::Unheard if ready.writes => add(Choice::Go(process, Done::Unheard)),
                    Fault::Fails if ready.writes => add(Choice::Go(process, Done::NotAtAll)),
                    Fault::Dies => add(Choice::Kill(process)),
                    Fault::Unread if !ready.writes => add(Choice::Go(process, Done::NotAtAll)),
                    Fault::Unheard | Fault::Fails | Fault::Unread => {}
                }
            }
        }
        let quick = !ready.iter().any(|ready| ready.lasting);
        for seconds in scene.jumps.iter().filter(|_| quick) {
            add(Choice::Pass(*seconds, None));
            if scene.still.is_some() {
                for ready in ready {
                    add(Choice::Pass(*seconds, Some(ready.process as u8)));
                }
            }
        }
        options
    }

    fn cost(&self, choice: Choice, ready: &[Ready]) -> Used {
        let mut used = self.used;
        let awake = |ready: &&Ready| !ready.polls && !ready.slept;
        match choice {
            Choice::Go(process, how) => {
                let process = usize::from(process);
                let goes_on = self.last.is_some_and(|last| {
                    ready.iter().filter(awake).any(|ready| ready.process == last)
                });
                let interrupts = goes_on && Some(process) != self.last;
                used.turns += u8::from(interrupts || self.naps_early(process, ready));
                used.faults += u8::from(how != Done::Fully);
            }
            Choice::Kill(_) => used.faults += 1,
            Choice::Pass(..) => used.jumps += 1,
        }
        used
    }

    /// Whether it looks again although somebody else could go on.
    fn naps_early(&self, process: usize, ready: &[Ready]) -> bool {
        let slept = ready.iter().any(|ready| ready.process == process && ready.slept);
        let sooner = |ready: &Ready| {
            !ready.polls && (!ready.slept || self.ran[ready.process] < self.ran[process])
        };
        slept && ready.iter().any(sooner)
    }

    fn make(&mut self, choice: Choice, ready: &[Ready]) {
        self.used = self.cost(choice, ready);
        self.choices.push(choice);
        self.path =
            Some(Arc::new(Path { choice, shape: asked(choice, ready), before: self.path.take() }));
        self.search.steps.fetch_add(1, Ordering::Relaxed);
        match choice {
            Choice::Go(process, how) => {
                self.naps[usize::from(process)] +=
                    u8::from(self.naps_early(usize::from(process), ready));
                self.last = Some(usize::from(process));
                self.ran[usize::from(process)] = self.choices.len() as u64;
                self.world.let_through(usize::from(process), how);
            }
            Choice::Kill(process) => self.world.kill(usize::from(process)),
            Choice::Pass(seconds, still) => {
                // Whoever stood still was interrupted already.
                self.last = None;
                let paused = self.search.scene.still == Some(Still::Paused);
                self.world.pass(seconds, still.map(usize::from), paused);
            }
        }
    }

    /// Ends what still runs.
    fn end(&mut self) {
        for at in 0..self.threads.len() {
            self.world.kill(at);
        }
        for thread in self.threads.drain(..) {
            // A process that panicked was told of by its own message.
            let _ = thread.join();
        }
    }
}
