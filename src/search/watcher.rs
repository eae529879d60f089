//! Following the newest snapshot while serving: a newer one is taken over only when it has proved itself.
//!
//! ```text
//! every few seconds: a greater number?          no -> nothing; only smaller ones, or none any more -> told, tried again
//!   lease, fetch (hashed), open, note ids, canary queries, query tower   fails -> told, the open one stays, tried again later
//!   swap one pointer                            readers of the old one keep it until they let go
//! ```
//!
//! The lease keeps gc away while files are fetched, and for as long as files of a local root are mapped where they are
//! ([`WatchOptions::in_place`]; on a network file system they must not go). A root that cannot be written to does
//! without.
//!
//! A rollback is a greater number with older content, so it is followed like any other snapshot.
//!
//! A retained snapshot can be opened beside it, to compare the two: one at a time, and only where that is cheap (`beside.rs`).

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::beside::{Second, check_cheap};
use super::cache::Cache;
use super::fetch::Files;
use super::lease::Leases;
use super::opened::Snapshot;
use super::query::QueryEncoder;
use super::serving::{Serving, TowerChoice, WatchFailure, WatchOptions, WatchStatus};
use super::sources::Sources;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::snapshot;
use crate::store::{FileRef, Root};
use crate::types::Cancel;

/// Longest pause before a broken snapshot is looked at again.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Longest time that opening a second snapshot may hold up a look.
const OPENING: Duration = Duration::from_secs(30);
/// Time to wait for somebody else who opens a second snapshot.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the newest whole snapshot open. Dropping it stops looking; what readers hold stays open.
///
/// ```
/// # use std::sync::Arc;
/// use std::time::Duration;
///
/// # use scalingnote::config::resolve_text;
/// # use scalingnote::error::Error;
/// # use scalingnote::exec::{self, RunContext, RunOptions};
/// # use scalingnote::observe::{Reporter, Silent};
/// use scalingnote::search::{SnapshotWatcher, WatchOptions};
/// # use scalingnote::store::Root;
/// # use scalingnote::types::Cancel;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Error> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let notes = folder.path().join("notes.jsonl");
/// # std::fs::write(notes, "{\"note_id\": 1, \"body\": \"weak password\"}\n").expect("the notes are written");
/// # let file = r#"
/// #     version = 2
/// #     corpus.sql = "SELECT note_id, body FROM notes"
/// #     corpus.template = "{{ body }}"
/// #     corpus.tables = [{ name = "notes", uri = "notes.jsonl" }]
/// #     tower = { model = "fake:16", pooling = "mean" }
/// #     publish.root = "memory://watched"
/// # "#;
/// # let pipeline = resolve_text(file, "notes.toml", folder.path(), [], &[])?.pipeline;
/// # let root = Root::open(&pipeline.publish.root)?;
/// # let reporter: Arc<dyn Reporter> = Arc::new(Silent);
/// # let context = RunContext { pipeline, root: root.clone(), reporter, cancel: Cancel::new() };
/// # let options = WatchOptions {
/// #     every: Duration::from_secs(10),
/// #     cache: folder.path().join("cache"),
/// #     in_place: false,
/// #     tower: None,
/// #     first: None,
/// # };
/// let mut watcher = SnapshotWatcher::new(root, options)?;
/// assert!(!watcher.look().await?, "nothing is published yet");
///
/// exec::run(&context, &RunOptions::default()).await?;
/// assert!(watcher.look().await?);
/// // Once for each query: what it holds stays open while newer snapshots go into service.
/// let serving = watcher.current().expect("a snapshot is in service");
/// let query = [0.25; 16];
/// let hits = serving.snapshot.search_vector(&query, 3, false)?;
/// assert_eq!(hits.len(), 1);
///
/// // From now on it looks every ten seconds.
/// watcher.start();
/// watcher.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SnapshotWatcher {
    inner: Arc<Inner>,
    looking: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    root: Root,
    options: WatchOptions,
    cache: Option<Cache>,
    current: RwLock<Option<Arc<Serving>>>,
    /// One look at a time; what is known of the newest snapshot where it could not be taken over.
    broken: tokio::sync::Mutex<Option<Broken>>,
    second: tokio::sync::Mutex<Second<Serving>>,
    closed: Cancel,
    status: Mutex<WatchStatus>,
    open: Mutex<Vec<Weak<Serving>>>,
    leases: Leases,
    /// What the served copies were made from.
    sources: Sources,
}

#[derive(Debug)]
struct Broken {
    number: u64,
    pause: Duration,
    again: Instant,
}

/// Whether files are mapped where they are.
fn in_place(root: &Root, options: &WatchOptions) -> bool {
    options.in_place && root.local_folder().is_some()
}

impl SnapshotWatcher {
    /// A watcher that has not looked yet and does so only when told ([`SnapshotWatcher::look`]).
    ///
    /// # Errors
    /// Input or Resource where the cache cannot be written.
    pub fn new(root: Root, options: WatchOptions) -> Result<Self> {
        let cache = match in_place(&root, &options) {
            true => None,
            false => Some(Cache::claim(&options.cache, root.uri()).map_err(|error| {
                match root.local_folder() {
                    Some(_) => error.context(
                        "served files are copied (--cache says where to; --in-place maps them where they are)",
                    ),
                    None => error,
                }
            })?),
        };
        let inner = Inner {
            root,
            options,
            cache,
            current: RwLock::default(),
            broken: tokio::sync::Mutex::default(),
            second: tokio::sync::Mutex::default(),
            closed: Cancel::new(),
            status: Mutex::default(),
            open: Mutex::default(),
            leases: Leases::default(),
            sources: Sources::default(),
        };
        Ok(Self { inner: Arc::new(inner), looking: None })
    }

    /// Starts looking on its own, the first time after one pause. Needs a tokio runtime.
    pub fn start(&mut self) {
        let inner = Arc::clone(&self.inner);
        let look = async move {
            loop {
                // Many servers started at once should not ask at the same time forever.
                let spread = 0.9 + 0.2 * rand::random::<f64>();
                tokio::time::sleep(inner.options.every.mul_f64(spread)).await;
                // Told already, and counted.
                let _ = inner.look().await;
            }
        };
        if let Some(before) = self.looking.replace(tokio::spawn(look)) {
            before.abort();
        }
    }

    /// Looks now; true where a newer snapshot went into service.
    ///
    /// # Errors
    /// What kept the newest snapshot out of service; the one before stays. A snapshot that failed a moment ago is tried
    /// again after a pause that grows to ten minutes, without an error in between. NotFound where the root has lost the
    /// snapshot in service and all that would follow it, as an unmounted disk does.
    pub async fn look(&self) -> Result<bool> {
        self.inner.look().await
    }

    /// The snapshot in service. Take it once a query.
    pub fn current(&self) -> Option<Arc<Serving>> {
        self.inner.current()
    }

    /// The root whose snapshots it watches.
    pub fn root(&self) -> &Root {
        &self.inner.root
    }

    /// Snapshot `number`, to be compared with the one in service: whatever both hold is open once, at most `most` bytes of other
    /// files are fetched, and the tower that is loaded serves both. One such snapshot is open at a time, until another one is
    /// asked for, a newer one goes into service, or nobody has asked for five minutes.
    ///
    /// What was begun is finished, up to half a minute, where the caller does not wait for it.
    ///
    /// # Errors
    /// Input where it has another tower or would cost more; NotFound; Transient where another one is being opened, or was a
    /// moment ago; as [`SnapshotWatcher::look`].
    pub async fn beside(&self, number: u64, most: u64) -> Result<Arc<Serving>> {
        let inner = Arc::clone(&self.inner);
        let opening = tokio::spawn(async move { inner.beside(number, most).await });
        opening.await.or_error(ErrorKind::Internal, || "opening a second snapshot")?
    }

    /// Stops looking, releases the snapshot in service and its lease.
    pub async fn close(&self) {
        self.inner.closed.cancel();
        if let Some(looking) = &self.looking {
            looking.abort();
        }
        // A look in progress ends first, so that it puts nothing into service any more.
        let _looking = self.inner.broken.lock().await;
        drop(self.inner.current.write().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.second.lock().await.clear();
        self.inner.leases.settle().await;
    }

    /// What was seen so far.
    pub fn status(&self) -> WatchStatus {
        let mut status = self.inner.lock_status().clone();
        status.open = self.inner.still_open().len();
        status
    }
}

impl Drop for SnapshotWatcher {
    fn drop(&mut self) {
        self.inner.closed.cancel();
        if let Some(looking) = &self.looking {
            looking.abort();
        }
    }
}

impl Inner {
    fn current(&self) -> Option<Arc<Serving>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock_status(&self) -> std::sync::MutexGuard<'_, WatchStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that someone holds.
    fn still_open(&self) -> Vec<Arc<Serving>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|weak| weak.strong_count() > 0);
        open.iter().filter_map(Weak::upgrade).collect()
    }

    async fn look(&self) -> Result<bool> {
        let mut broken = self.broken.lock().await;
        let current = self.current();
        self.tell_changed().await;
        let known = current.as_ref().map(|serving| serving.snapshot.manifest().number);
        let newest = snapshot::newest_number(&self.root, known.or(self.options.first)).await;
        let number = match newest.and_then(|newest| self.to_open(known, newest)) {
            Ok(number) => number,
            Err(error) => return Err(self.failed(None, error)),
        };
        let Some(number) = number else {
            *broken = None;
            self.succeeded(None);
            // If it is locked, it is in use.
            if let Ok(mut second) = self.second.try_lock() {
                second.clear_unused();
            }
            self.trim(None);
            return Ok(false);
        };
        let before = broken.take_if(|broken| broken.number == number);
        if let Some(waiting) = before.as_ref().filter(|broken| Instant::now() < broken.again) {
            tracing::debug!(snapshot = number, again = ?waiting.again, "still broken, as far as known");
            *broken = before;
            return Ok(false);
        }
        let mut files = Vec::new();
        match self.open(number, current.as_deref(), None, &mut files).await {
            Ok(serving) => {
                // It shares its files with the snapshot that goes.
                if let Ok(mut second) = self.second.try_lock() {
                    second.clear();
                }
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(serving);
                drop(current);
                *broken = None;
                self.succeeded(Some(number));
                tracing::info!(snapshot = number, before = ?known, "snapshot in service");
                self.trim(None);
                Ok(true)
            }
            Err(error) => {
                let pause = before.map_or(self.options.every, |before| before.pause * 2);
                let pause = pause.min(LONGEST_PAUSE.max(self.options.every));
                // What was fetched of it is used at the next attempt.
                self.trim(Some(&files));
                *broken = Some(Broken { number, pause, again: Instant::now() + pause });
                Err(self.failed(Some(number), error))
            }
        }
    }

    /// The number to open, if any, where `known` is in service and `newest` is the greatest there is.
    ///
    /// # Errors
    /// NotFound where the root has lost what is in service: no gc deletes the newest snapshot.
    fn to_open(&self, known: Option<u64>, newest: Option<u64>) -> Result<Option<u64>> {
        let Some(known) = known else {
            let first = self.options.first.unwrap_or_default();
            return Ok(newest.filter(|newest| *newest >= first));
        };
        let uri = self.root.uri();
        match newest {
            Some(newest) if newest >= known => Ok(Some(newest).filter(|newest| *newest > known)),
            Some(newest) => Err(Error::not_found(format!(
                "the newest snapshot in {uri} is {newest}, but {known} is in service, which stays; was the root put back? \
                 its snapshots are taken over from number {} on, or after a restart",
                known + 1
            ))),
            None => Err(Error::not_found(format!(
                "nothing is published in {uri} any more, neither snapshot {known}, which stays in service, nor a newer one; \
                 is its disk mounted?"
            ))),
        }
    }

    async fn beside(&self, number: u64, most: u64) -> Result<Arc<Serving>> {
        let locked = tokio::time::timeout(PATIENCE, self.second.lock()).await;
        let mut second =
            locked.map_err(|_| Error::transient("another snapshot is being opened"))?;
        if let Some(open) = second.get(number) {
            return Ok(open);
        }
        if let Some(left) = second.rests() {
            let left = left.as_secs_f64().ceil();
            return Err(Error::transient(format!(
                "another snapshot was opened a moment ago; this one can be in {left} s"
            )));
        }
        second.clear();
        let began = Instant::now();
        let opening = async {
            // A look clears the cache of what is being fetched here.
            let _looking = self.broken.lock().await;
            let current = self.current().filter(|_| !self.closed.is_cancelled());
            let current = current.ok_or_else(|| Error::transient("no snapshot is in service"))?;
            if current.snapshot.manifest().number == number {
                return Ok(current);
            }
            self.open(number, Some(&current), Some(most), &mut Vec::new()).await
        };
        let opened = tokio::select! {
            () = self.closed.cancelled() => Err(Error::transient("the service is stopping")),
            opened = tokio::time::timeout(OPENING, opening) => opened.unwrap_or_else(|_| {
                Err(Error::transient(format!("opening snapshot {number} took longer than {} s", OPENING.as_secs())))
            }),
        };
        second.put(began, opened.as_ref().ok().map(|open| (number, Arc::clone(open))));
        opened
    }

    /// Opens and tries a snapshot beside the one in service; where `most` is given, only one that is cheap to open.
    async fn open(
        &self,
        number: u64,
        before: Option<&Serving>,
        most: Option<u64>,
        files: &mut Vec<FileRef>,
    ) -> Result<Arc<Serving>> {
        let opening = || format!("opening snapshot {number} in {}", self.root.uri());
        let lease = self.leases.take(&self.root, number).await?;
        let manifest = snapshot::read(&self.root, number).await?;
        if let (Some(before), Some(most)) = (before, most) {
            check_cheap(before, &manifest, most)?;
        }
        files.extend(manifest.content.files().cloned());
        let cache = self.cache.as_ref().map_or(self.options.cache.as_path(), Cache::folder);
        let in_place = in_place(&self.root, &self.options);
        let from = Files { cache, in_place };
        self.watch_sources(files).await;
        let opened =
            Snapshot::open_beside(&self.root, manifest, &from, before.map(|open| &open.snapshot));
        let opened = opened.await.context(opening)?;
        let checked = tokio::task::spawn_blocking(move || {
            let asked = opened.check_canaries()?;
            Ok::<_, Error>((opened, asked))
        });
        let (snapshot, asked) = checked
            .await
            .or_error(ErrorKind::Internal, || "asking the canaries")?
            .context(opening)?;
        tracing::debug!(snapshot = number, canaries = asked, "canaries answered as recorded");
        let encoder = self.encoder(&snapshot, before).await?;
        let lease = lease.filter(|_| in_place);
        let serving = Arc::new(Serving { snapshot, encoder, lease });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(Arc::downgrade(&serving));
        drop(open);
        Ok(serving)
    }

    /// Takes stamps of what is about to be copied, beside those of what is open.
    async fn watch_sources(&self, opening: &[FileRef]) {
        let mut files = opening.to_vec();
        for serving in self.still_open() {
            files.extend(serving.snapshot.manifest().content.files().cloned());
        }
        self.sources.watch(&self.root, &files).await;
    }

    /// Says which files of a local root are no longer what is served.
    async fn tell_changed(&self) {
        for file in self.sources.changed().await {
            tracing::error!(
                file,
                root = self.root.uri(),
                "a published file was changed; what is in service was read before, `scalingnote snapshot verify` says more"
            );
        }
    }

    async fn encoder(
        &self,
        snapshot: &Snapshot,
        before: Option<&Serving>,
    ) -> Result<Option<Arc<QueryEncoder>>> {
        let manifest = snapshot.manifest();
        let Some(choice) = &self.options.tower else { return Ok(None) };
        if manifest.content.query_towers.is_empty() {
            return Ok(None);
        }
        let loaded = before.and_then(|before| before.encoder.as_ref());
        if let Some(encoder) = loaded.filter(|encoder| encoder.serves(manifest)) {
            return Ok(Some(Arc::clone(encoder)));
        }
        let TowerChoice { model, base_dir, device, reporter } = choice;
        let model = model.as_deref();
        let loading = QueryEncoder::load(&self.root, manifest, model, base_dir, device, reporter);
        Ok(Some(Arc::new(loading.await?)))
    }

    fn succeeded(&self, number: Option<u64>) {
        let mut status = self.lock_status();
        status.looked = Some(Instant::now());
        status.failure = None;
        if number.is_some() {
            status.number = number;
            status.swaps += 1;
        }
    }

    fn failed(&self, snapshot: Option<u64>, error: Error) -> Error {
        // Neither a line of the log nor the answer to a health check has a line for a hint.
        let message = error.told();
        let mut status = self.lock_status();
        let stays = status.number;
        match (snapshot, stays) {
            (Some(number), Some(stays)) => tracing::error!(
                snapshot = number, stays, error = %message, "the newest snapshot is not taken over; the one in service stays"
            ),
            (Some(number), None) => {
                tracing::error!(
                    snapshot = number,
                    error = %message,
                    "the newest snapshot cannot be opened"
                )
            }
            (None, _) => tracing::warn!(error = %message, "looking for a newer snapshot failed"),
        }
        status.failures += 1;
        status.failure = Some(WatchFailure { snapshot, message });
        error
    }

    /// Clears the cache of what neither an open snapshot nor the one being fetched needs.
    fn trim(&self, fetched: Option<&[FileRef]>) {
        let Some(cache) = &self.cache else { return };
        let open = self.still_open();
        let used = open.iter().flat_map(|serving| serving.snapshot.manifest().content.files());
        if let Err(error) = cache.trim(used.chain(fetched.unwrap_or_default())) {
            tracing::warn!(%error, "the cache could not be cleared");
        }
    }
}
