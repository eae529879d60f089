//! Snapshots: the manifest, its one commit point, and what is done to it later.
//!
//! ```text
//! commit:  lease -> wait for a gc batch -> parent still newest? -> every object there? -> lease still young?
//!          -> put-if-absent -> lease still held? every object still there? -> lease gone
//! reader:  lease -> wait for a gc batch -> manifest still there? -> read, renewing    -> lease gone
//! run:     lease -> wait for a gc batch -> plan, encode, build, publish, with a heartbeat -> lease gone
//! gc:      lease -> no commit lease? -> leave what readers, runs and new snapshots need -> delete a batch -> lease gone
//! ```
//!
//! Each side writes its own lease before it looks for the other's, so at least one of them sees the other: a gc never
//! deletes an object that a publish, a run or a reader with a lease beside it needs. Leases are by the store's clock.

mod commit;
mod copied;
mod gc;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod ids;
mod lease;
mod maker;
mod manifest;
mod purge;
mod repair;
mod rollback;
mod sign;
mod tombstones;

pub use commit::{commit, proposed};
pub use copied::commit_copied;
pub(crate) use gc::strings_in;
pub use gc::{GcReport, Protected, Retention, gc};
pub use lease::{Holder, ReaderLease, RunLease, Taken, check_store, host_name, is_current_run};
pub use maker::made_by;
pub use manifest::{
    Adapted, CommitOutcome, Content, Diff, EVALUATION, FEED, GateOutcome, IndexContent, Laid,
    MANIFEST_VERSION, Manifest, NoteDiff, Problem, Provenance, Purged, QueryTower, Removed,
    SOURCE_TYPES, Segment, ShardContent, content_hash, diff, diff_ids, json_schema, newest,
    newest_number, numbers, read, removed, verify_hashes, verify_other_hashes,
};
pub use purge::{commit_purged, delete_now};
pub use repair::{RepairReport, repair};
pub use rollback::{RollbackOutcome, rollback};
pub use sign::{sign_published, signed_by, signer};
pub use tombstones::{
    PlannedUnder, Tombstones, blame_purge, overtaken_by_purge, purged_in, purged_since,
};
