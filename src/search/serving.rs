//! What a watcher is told, what it puts into service, and what it says of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lease::KeptLease;
use super::opened::Snapshot;
use super::query::QueryEncoder;
use crate::observe::Reporter;
use crate::tower::DeviceSpec;

/// How a watcher works.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Time between two looks for a newer number.
    pub every: Duration,
    /// Folder for copies of the served files; each watcher of a root has a folder of its own in it.
    pub cache: PathBuf,
    /// Map the files of a local root where they are instead of copying them: for roots that nobody changes by other
    /// means than this program. One that is cut short or written over then ends the process or gives wrong answers.
    pub in_place: bool,
    /// The query tower to load with each snapshot; `None` where queries come as vectors.
    pub tower: Option<TowerChoice>,
    /// The first number to open, where a root does not list its files; otherwise the newest there is.
    pub first: Option<u64>,
}

/// How the query tower that a snapshot names is loaded.
#[derive(Clone)]
pub struct TowerChoice {
    /// Where the tower's files are, if not where the snapshot says.
    pub model: Option<String>,
    /// Relative paths start here.
    pub base_dir: PathBuf,
    /// Where it computes.
    pub device: DeviceSpec,
    /// Hears about downloads.
    pub reporter: Arc<dyn Reporter>,
}

impl std::fmt::Debug for TowerChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TowerChoice")
            .field("model", &self.model)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// A snapshot in service, with the tower that its queries are encoded with. Hold it for one query: the two belong
/// together, and it stays open as long as anyone holds it.
#[derive(Debug)]
pub struct Serving {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its query tower; absent where the watcher loads none or the snapshot admits none.
    pub encoder: Option<Arc<QueryEncoder>>,
    #[expect(dead_code, reason = "given back when this is dropped")]
    pub(super) lease: Option<KeptLease>,
}

/// What a watcher has seen.
#[derive(Debug, Clone, Default)]
pub struct WatchStatus {
    /// Snapshot in service.
    pub number: Option<u64>,
    /// Snapshots that someone still holds, the one in service included.
    pub open: usize,
    /// Snapshots put into service so far.
    pub swaps: u64,
    /// Looks that failed, and newer snapshots that were not taken over.
    pub failures: u64,
    /// The last failure, until a look succeeds.
    pub failure: Option<WatchFailure>,
    /// When a look last succeeded.
    pub looked: Option<Instant>,
}

/// Why the newest snapshot is not in service.
#[derive(Debug, Clone)]
pub struct WatchFailure {
    /// Its number; absent where not even that could be found out.
    pub snapshot: Option<u64>,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for WatchFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(number) = self.snapshot {
            write!(f, "snapshot {number} is not taken over: ")?;
        }
        f.write_str(&self.message)
    }
}
