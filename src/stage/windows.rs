//! The open windows of an encode task, whose batches any worker may take.
//!
//! A window becomes one part. It is cut into batches once, when it is opened, so its bytes do not depend on who takes
//! which of them. A worker takes the next batch of the oldest window; one that has no task of its own left takes
//! batches of the others' ([`SharedWork`]), so that a run of one shard keeps every device busy.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};

use super::plan::RunSpec;
use super::quarantine::Quarantined;
use crate::corpus::PreparedRow;
use crate::embedding::EncodedText;
use crate::error::{Error, Result};
use crate::tower::{Tokenized, pack};
use crate::types::Embeddings;

/// Windows of a task that workers may take batches of at once. With two, nobody waits for the last batch of one.
const OPEN: usize = 2;
/// Waiting batches for which a worker loads its tower just to help: fewer are done before it has.
const WORTH_LOADING: usize = 4;

/// A text waiting to be encoded.
pub(super) struct Pending {
    pub row: PreparedRow,
    pub tokens: Tokenized,
}

/// One window, encoded: row i of `vectors` belongs to `texts[i]`.
pub(super) struct EncodedWindow {
    pub texts: Vec<EncodedText>,
    pub vectors: Embeddings,
    pub quarantined: Vec<Quarantined>,
    pub busy_seconds: f64,
}

/// What became of one text of a batch: its vector, or why there is none.
pub(super) type Encoded = Result<Vec<f32>, Quarantined>;

struct Window {
    texts: Arc<Vec<Pending>>,
    waiting: VecDeque<Vec<usize>>,
    /// Batches that were taken and not yet delivered.
    taken: usize,
    vectors: Vec<Option<Vec<f32>>>,
    quarantined: Vec<Quarantined>,
    busy_seconds: f64,
}

#[derive(Default)]
struct State {
    open: VecDeque<Window>,
    /// Number of `open`'s first.
    first: u64,
    /// All windows were opened.
    read: bool,
    /// Nothing more is taken.
    stopped: bool,
    /// Texts and tokens that were delivered.
    encoded: (u64, u64),
    /// The task has ended: what is delivered now is lost.
    over: bool,
    failure: Option<Error>,
}

/// The open windows of one task.
pub struct Windows {
    spec: RunSpec,
    shared: Arc<SharedWork>,
    state: Mutex<State>,
    /// For workers: there may be a batch, or there never will be.
    taking: Condvar,
    /// For the writer: the oldest window may be done.
    done: Notify,
    room: Semaphore,
}

impl Windows {
    /// None yet; other workers see them for as long as the returned guard lives.
    pub(super) fn new(spec: &RunSpec, shared: &Arc<SharedWork>) -> (Arc<Self>, Offered) {
        let windows = Arc::new(Self {
            spec: spec.clone(),
            shared: Arc::clone(shared),
            state: Mutex::default(),
            taking: Condvar::new(),
            done: Notify::new(),
            room: Semaphore::new(OPEN),
        });
        shared.tasks().push(Arc::clone(&windows));
        let offered = Offered { windows: Arc::clone(&windows) };
        (windows, offered)
    }

    pub(super) fn spec(&self) -> &RunSpec {
        &self.spec
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a window once there is room for it. False where the task stopped meanwhile.
    pub(super) async fn open(&self, texts: Vec<Pending>) -> bool {
        match self.room.acquire().await {
            // Comes back when the window is closed.
            Ok(room) => room.forget(),
            Err(_) => return false,
        }
        let lengths: Vec<u32> = texts.iter().map(|text| text.tokens.ids.len() as u32).collect();
        let window = Window {
            waiting: pack(&lengths, self.spec.encode.token_budget).into(),
            taken: 0,
            vectors: vec![None; texts.len()],
            quarantined: Vec::new(),
            busy_seconds: 0.0,
            texts: Arc::new(texts),
        };
        let mut state = self.state();
        if state.stopped {
            return false;
        }
        state.open.push_back(window);
        drop(state);
        self.taking.notify_all();
        self.shared.tell();
        true
    }

    /// No window will follow.
    pub(super) fn finish_reading(&self) {
        self.state().read = true;
        self.taking.notify_all();
        self.done.notify_one();
    }

    /// Lets no more batches be taken; what was encoded is still closed and written.
    pub(super) fn stop(&self) {
        self.end(None);
    }

    /// [`Windows::stop`], for this reason where there is one; the first one counts.
    fn end(&self, failure: Option<Error>) {
        let mut state = self.state();
        state.stopped = true;
        if state.failure.is_none() {
            state.failure = failure;
        }
        state.open.iter_mut().for_each(|window| window.waiting.clear());
        drop(state);
        self.room.close();
        self.taking.notify_all();
        self.done.notify_one();
    }

    /// Why the task failed, if it did.
    pub(super) fn failure(&self) -> Result<()> {
        self.state().failure.take().map_or(Ok(()), Err)
    }

    /// Counts what is delivered. False where the task has ended without it.
    fn count(&self, texts: u64, tokens: u64) -> bool {
        let mut state = self.state();
        if !state.over {
            state.encoded.0 += texts;
            state.encoded.1 += tokens;
        }
        !state.over
    }

    /// Ends the count; texts and tokens that were delivered until now.
    pub(super) fn end_count(&self) -> (u64, u64) {
        let mut state = self.state();
        state.over = true;
        state.encoded
    }

    /// The next batch, cut to `limit` tokens: what a device has shown to hold. With `wait` there is none only once
    /// there will be no more.
    pub(super) fn take(self: &Arc<Self>, wait: bool, limit: u64) -> Option<Batch> {
        let mut state = self.state();
        loop {
            let first = state.first;
            for (at, window) in state.open.iter_mut().enumerate() {
                if let Some(mut members) = window.waiting.pop_front() {
                    let rest = members.split_off(fitting(&members, &window.texts, limit));
                    if !rest.is_empty() {
                        window.waiting.push_front(rest);
                    }
                    window.taken += 1;
                    return Some(Batch {
                        windows: Arc::clone(self),
                        window: first + at as u64,
                        texts: Arc::clone(&window.texts),
                        members,
                        delivered: false,
                    });
                }
            }
            if !wait || state.stopped || state.read {
                return None;
            }
            state = self.taking.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn waiting(&self) -> usize {
        self.state().open.iter().map(|window| window.waiting.len()).sum()
    }

    /// The oldest window once it is done, in the order they were opened; `None` after the last.
    pub(super) async fn close_next(&self) -> Option<EncodedWindow> {
        loop {
            {
                let mut state = self.state();
                match state.open.front() {
                    Some(window) if window.waiting.is_empty() && window.taken == 0 => {
                        let window = state.open.pop_front()?;
                        state.first += 1;
                        drop(state);
                        self.room.add_permits(1);
                        return Some(window.close(self.spec.space.dimensions as usize));
                    }
                    None if state.read || state.stopped => return None,
                    _ => {}
                }
            }
            self.done.notified().await;
        }
    }
}

/// How many texts of a batch have at most `limit` tokens together; a longer text is tried all the same.
fn fitting(members: &[usize], texts: &[Pending], limit: u64) -> usize {
    let mut tokens = 0;
    let fits = members.iter().take_while(|at| {
        tokens += texts[**at].tokens.ids.len() as u64;
        tokens <= limit
    });
    fits.count().max(1)
}

impl Window {
    fn close(self, dimensions: usize) -> EncodedWindow {
        let mut texts = Vec::with_capacity(self.texts.len());
        let mut vectors = Embeddings::with_capacity(dimensions, self.texts.len());
        for (text, vector) in self.texts.iter().zip(self.vectors) {
            let Some(vector) = vector else { continue };
            vectors.push(&vector);
            texts.push(EncodedText {
                text_hash: text.row.text_hash,
                note_id: text.row.note_id.clone(),
                token_count: text.tokens.ids.len() as u32,
                truncated: text.tokens.truncated,
            });
        }
        let (quarantined, busy_seconds) = (self.quarantined, self.busy_seconds);
        EncodedWindow { texts, vectors, quarantined, busy_seconds }
    }
}

/// Texts of one window that one worker encodes. Dropped undelivered it fails its task: nobody else has them.
pub(super) struct Batch {
    windows: Arc<Windows>,
    window: u64,
    texts: Arc<Vec<Pending>>,
    members: Vec<usize>,
    delivered: bool,
}

impl Batch {
    pub(super) fn texts(&self) -> impl Iterator<Item = &Pending> {
        self.members.iter().map(|at| &self.texts[*at])
    }

    pub(super) fn tokens(&self) -> u64 {
        self.texts().map(|text| text.tokens.ids.len() as u64).sum()
    }

    /// Gives the results back, in the order of [`Batch::texts`], with the time that a device spent on them. False where nobody
    /// waits for them any more.
    pub(super) fn deliver(mut self, encoded: Vec<Encoded>, seconds: f64) -> bool {
        self.delivered = true;
        // First: with its last batch a window may be stored, and the task end.
        let counts = self.windows.count(encoded.len() as u64, self.tokens());
        self.give_back(|window| {
            window.busy_seconds += seconds;
            for (at, encoded) in self.members.iter().zip(encoded) {
                match encoded {
                    Ok(vector) => window.vectors[*at] = Some(vector),
                    Err(quarantined) => window.quarantined.push(quarantined),
                }
            }
        });
        counts
    }

    fn give_back(&self, change: impl FnOnce(&mut Window)) {
        let mut state = self.windows.state();
        let at = (self.window - state.first) as usize;
        // A window stays open for as long as a batch of it is out.
        if let Some(window) = state.open.get_mut(at) {
            window.taken -= 1;
            change(window);
        }
        drop(state);
        self.windows.done.notify_one();
    }

    /// Fails the task.
    pub(super) fn fail(self, error: Error) {
        self.windows.end(Some(error));
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.delivered {
            return;
        }
        self.windows.end(Some(Error::internal("a worker ended before it delivered its batch")));
        self.give_back(|_| {});
    }
}

/// Takes a task's windows off the list that other workers look at.
pub(super) struct Offered {
    windows: Arc<Windows>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        let shared = &self.windows.shared;
        shared.tasks().retain(|windows| !Arc::ptr_eq(windows, &self.windows));
        shared.tell();
    }
}

/// The encode tasks at work in this process, for workers that have none of their own left.
#[derive(Default)]
pub struct SharedWork {
    tasks: Mutex<Vec<Arc<Windows>>>,
    /// Workers that may still begin a task.
    owners: AtomicUsize,
    changed: watch::Sender<()>,
}

impl SharedWork {
    fn tasks(&self) -> MutexGuard<'_, Vec<Arc<Windows>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_replace(());
    }

    /// Says that a worker may begin tasks for as long as the returned guard lives.
    pub fn own(self: &Arc<Self>) -> Owner {
        self.owners.fetch_add(1, Ordering::AcqRel);
        Owner { shared: Arc::clone(self) }
    }

    /// The task with the most waiting batches, once there is one that is worth it; `None` when no task is at work and
    /// none will begin. `loaded` says whether the worker has its tower loaded.
    pub async fn wanted(&self, loaded: bool) -> Option<Arc<Windows>> {
        let least = if loaded { 1 } else { WORTH_LOADING };
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let over = self.owners.load(Ordering::Acquire) == 0;
            let tasks = self.tasks().clone();
            let most = tasks.iter().map(|task| (task.waiting(), task)).max_by_key(|(n, _)| *n);
            match most {
                Some((waiting, task)) if waiting >= least => return Some(Arc::clone(task)),
                None if over => return None,
                _ => {}
            }
            // The sender is `self`.
            changed.changed().await.ok()?;
        }
    }
}

/// A worker that may begin tasks.
pub struct Owner {
    shared: Arc<SharedWork>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.owners.fetch_sub(1, Ordering::AcqRel);
        self.shared.tell();
    }
}
