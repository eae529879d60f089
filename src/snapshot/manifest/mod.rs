//! The manifest, and what reads it: checks, comparisons, the small files beside it.

mod diff;
mod format;
mod purged;
mod query_tower;
mod read;
pub mod removed;
mod signature;
mod verify;

pub use diff::{Diff, NoteDiff, diff, diff_ids};
pub(super) use format::MADE_BY;
pub use format::{
    CommitOutcome, Content, EVALUATION, FEED, GateOutcome, IndexContent, MANIFEST_VERSION,
    Manifest, Provenance, Removed, SOURCE_TYPES, Segment, ShardContent, content_hash, json_schema,
};
pub use purged::Purged;
pub use query_tower::{Adapted, Laid, QueryTower};
pub(super) use read::parse;
pub use read::{newest, newest_number, numbers, read};
pub(super) use signature::{hash as manifest_hash, sign};
pub use verify::{Problem, verify_hashes, verify_other_hashes};
