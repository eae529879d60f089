//! What the page says of retained snapshots and of the run that made the newest: each is read once, and new ones are looked
//! for from time to time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Result;
use crate::index::Recall;
use crate::report::RunReport;
use crate::snapshot::{self, Manifest};
use crate::store::Root;
use crate::store::layout::{self, ReportName};
use crate::types::{Digest256, SpaceId};

/// Snapshots shown, the newest.
const SHOWN: usize = 30;
/// Time between two looks at the store, however often the page is asked for.
const EVERY: Duration = Duration::from_secs(10);
/// How long a page waits for a look.
const PATIENCE: Duration = Duration::from_secs(1);
/// A report that has more bytes is not read.
const REPORT: u64 = 8 << 20;

/// One retained snapshot.
#[derive(Debug, Clone, Serialize)]
pub(in crate::serve) struct Past {
    pub number: u64,
    pub created_at: String,
    pub by: String,
    pub notes: u64,
    pub vectors: u64,
    pub recall: Option<Recall>,
    /// What has to be the same for one tower to ask both.
    #[serde(skip)]
    meaning: (SpaceId, Vec<Digest256>),
}

impl Past {
    pub fn of(manifest: &Manifest) -> Self {
        let (content, provenance) = (&manifest.content, &manifest.provenance);
        let recall = provenance.measured.get("recall");
        Self {
            number: manifest.number,
            created_at: provenance.created_at.clone(),
            by: provenance.run.clone(),
            notes: content.notes,
            vectors: content.vectors,
            recall: recall.and_then(|recall| serde_json::from_value(recall.clone()).ok()),
            meaning: (
                content.space_id.clone(),
                content.query_towers.iter().map(|tower| tower.fingerprint).collect(),
            ),
        }
    }

    /// Whether the tower that is loaded for `other` encodes for this one too, as far as is known without its files.
    pub fn is_asked_like(&self, other: &Self) -> bool {
        self.meaning == other.meaning
    }
}

/// What the run that made a snapshot says of itself.
#[derive(Debug, Clone, Serialize)]
pub(in crate::serve) struct Run {
    run: String,
    seconds: f64,
    tokens_per_second: Option<f64>,
    new: u64,
    changed: u64,
    deleted: u64,
    encoded: u64,
    reused: u64,
}

impl Run {
    fn of(report: RunReport) -> Self {
        Self {
            seconds: report.seconds,
            tokens_per_second: report.tokens_per_second(),
            new: report.corpus.notes_new,
            changed: report.corpus.notes_changed,
            deleted: report.corpus.notes_deleted,
            encoded: report.reuse.encoded,
            reused: report.reuse.from_parent + report.reuse.from_elsewhere,
            run: report.run,
        }
    }
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(in crate::serve) struct Known {
    /// Oldest first.
    pub past: Vec<Past>,
    pub run: Option<Run>,
    /// The run whose report was looked for.
    asked: Option<String>,
    looked: Option<Instant>,
}

impl Known {
    fn put(&mut self, past: Past) {
        match self.past.binary_search_by_key(&past.number, |other| other.number) {
            Ok(at) => self.past[at] = past,
            Err(at) => self.past.insert(at, past),
        }
    }
}

#[derive(Debug, Default)]
pub(in crate::serve) struct History {
    known: Mutex<Known>,
    /// One look at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl History {
    /// What is known of the snapshots of `root`, of which `manifest` is in service. Looks where the last look is some seconds
    /// ago; a store that is slow, or fails, makes the page say less and not wait.
    pub async fn of(self: &Arc<Self>, root: &Root, manifest: &Manifest) -> Known {
        let due = self.lock().looked.is_none_or(|looked| looked.elapsed() >= EVERY);
        if due && let Ok(looking) = Arc::clone(&self.looking).try_lock_owned() {
            let (all, root) = (Arc::clone(self), root.clone());
            let (run, current) =
                (manifest.provenance.made_by().map(str::to_owned), Past::of(manifest));
            let look = tokio::spawn(async move {
                let _looking = looking;
                if let Err(error) = all.look(&root, current, run).await {
                    tracing::debug!(%error, "the history of snapshots could not be read");
                }
                all.lock().looked = Some(Instant::now());
            });
            // It goes on where nobody waits for it.
            let _ = tokio::time::timeout(PATIENCE, look).await;
        }
        let mut known = self.lock().clone();
        // It went into service since, or nothing could be read.
        known.put(Past::of(manifest));
        known
    }

    async fn look(&self, root: &Root, current: Past, run: Option<String>) -> Result<()> {
        if self.lock().asked != run {
            let report = match &run {
                Some(run) => report(root, run).await,
                None => None,
            };
            let mut known = self.lock();
            (known.run, known.asked) = (report.map(Run::of), run);
        }
        let number = current.number;
        self.lock().put(current);
        let numbers = snapshot::numbers(root).await?;
        let numbers = &numbers[numbers.len().saturating_sub(SHOWN)..];
        self.lock().past.retain(|past| past.number == number || numbers.contains(&past.number));
        // The newest first: a page that does not wait for the others shows these.
        for &number in numbers.iter().rev() {
            let known = self.lock().past.iter().any(|past| past.number == number);
            if known {
                continue;
            }
            // One may have gone, or be damaged; that is not the page's to tell.
            match snapshot::read(root, number).await {
                Ok(manifest) => self.lock().put(Past::of(&manifest)),
                Err(error) => tracing::debug!(snapshot = number, %error, "left out of the history"),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run's report, where it is still there.
async fn report(root: &Root, run: &str) -> Option<RunReport> {
    let key = layout::report(run, ReportName(1));
    root.size(&key).await.ok().flatten().filter(|size| *size <= REPORT)?;
    serde_json::from_slice(&root.get(&key).await.ok()?).ok()
}
