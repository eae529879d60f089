//! Snapshots: the manifest, its one commit point, and what is done to it later.
//!
//! ```text
//! commit:  lease -> wait for a gc batch -> parent still newest? -> every object there? -> put-if-absent -> lease gone
//! reader:  lease -> wait for a gc batch -> manifest still there? -> read, renewing    -> lease gone
//! run:     lease -> wait for a gc batch -> plan, encode, build, publish, with a heartbeat -> lease gone
//! gc:      lease -> no commit lease? -> leave what readers, runs and new snapshots need -> delete a batch -> lease gone
//! ```
//!
//! Each side writes its own lease before it looks for the other's, so at least one of them sees the other: a gc never
//! deletes an object that a publish, a run or a reader with a lease beside it needs. Leases are by the store's clock.

mod commit;
mod diff;
mod gc;
mod holder;
pub mod ids;
mod lease;
mod manifest;
mod purge;
mod purged;
mod read;
mod reader;
pub mod removed;
mod rollback;
mod run_lease;
mod sweep;
mod verify;

pub use commit::commit;
pub use diff::{Diff, NoteDiff, diff, diff_ids};
pub use gc::{GcReport, Protected, Retention, gc};
pub use holder::{Holder, host_name};
pub use lease::{check_store, store_time};
pub use manifest::{
    CommitOutcome, Content, GateOutcome, IndexContent, MANIFEST_VERSION, Manifest, Provenance,
    QueryTower, Removed, Segment, ShardContent, VectorShape, content_hash, json_schema,
};
pub use purge::{commit_purged, delete_now};
pub use purged::Purged;
pub use read::{newer, newest, numbers, read};
pub use reader::ReaderLease;
pub use rollback::rollback;
pub use run_lease::{RunLease, Taken, is_current_run};
pub use verify::{Problem, verify_hashes};
