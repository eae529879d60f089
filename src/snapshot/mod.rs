//! Snapshots: the manifest, its one commit point, and what is done to it later.
//!
//! ```text
//! commit:  intent -> wait for a gc batch -> parent still newest? -> every object there? -> put-if-absent -> intent gone
//! gc:      marker -> no commit intent?   -> newest still the same? -> delete a batch     -> marker gone
//! ```
//!
//! Each side writes its own lease before it looks for the other's, so at least one of them sees the other:
//! a publish never names an object that a gc beside it deletes.

mod commit;
mod diff;
mod gc;
pub mod ids;
mod lease;
mod manifest;
mod purge;
mod purged;
mod read;
pub mod removed;
mod rollback;
mod sweep;
mod verify;

pub use commit::commit;
pub use diff::{Diff, NoteDiff, diff, diff_ids};
pub use gc::{GcReport, Protected, Retention, gc};
pub use lease::{check_store, store_time};
pub use manifest::{
    CommitOutcome, Content, GateOutcome, IndexContent, MANIFEST_VERSION, Manifest, Provenance,
    QueryTower, Removed, Segment, ShardContent, VectorShape, content_hash, json_schema,
};
pub use purge::{commit_purged, delete_now};
pub use purged::Purged;
pub use read::{newest, numbers, read};
pub use rollback::rollback;
pub use verify::{Problem, verify_hashes};
