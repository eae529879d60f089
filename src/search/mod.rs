//! Opening a published snapshot and searching it: the reference reader of every file that serving needs.
//!
//! ```text
//! manifest -> per shard: usearch file + f16 sidecar (mapped), ids file (mapped, read when asked)
//! query text -> tower named in the manifest, fingerprint checked -> every shard -> best chunk per note -> k best
//! watcher: newer number? -> lease -> fetch, hash -> open -> note ids, canary queries -> query tower -> swap
//! ```

mod answer;
mod beside;
mod cache;
mod fetch;
mod ids;
mod lease;
mod opened;
mod passing;
mod query;
mod segment;
mod serving;
mod sources;
mod threads;
mod towers;
mod watcher;

pub(crate) use lease::Leases;
pub(crate) use query::NAME_MODEL;

pub use answer::{Answer, Hit};
pub use opened::{Found, Snapshot, Take};
pub use passing::Passing;
pub use query::QueryEncoder;
pub use serving::{Serving, TowerChoice, WatchFailure, WatchOptions, WatchStatus};
pub use towers::{CheckedTower, FoundTower, check_towers};
pub use watcher::SnapshotWatcher;
