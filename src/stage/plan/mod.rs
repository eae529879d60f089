//! Stage `prepare`: what a run will do, decided before it does it.

mod adapt;
mod compare;
mod envelope;
mod live;
mod look;
mod notes;
mod on_cores;
mod parent;
mod prepare;
mod shares;
mod tokens;
mod upstream;

pub use adapt::AdaptRequest;
pub(super) use compare::{source_digest, source_of};
pub use envelope::{
    AdaptTask, Backfill, BuildTask, CalibrateTask, EncodeTask, Envelope, NoteChanges, PLAN_VERSION,
    ParentIndex, ParentShard, Plan, RunSpec, ShardPlan, absolute_tower, discard_prepared,
    resolved_tower,
};
pub use live::PartsSummary;
pub use look::{check_corpus, look_at_note};
pub use notes::NotesRequest;
pub(super) use parent::recall_by_shard;
pub use prepare::{PlanRequest, Planned, plan};
pub use shares::{SHARES_VERSION, SharesPlan, SharesPlanned, plan_shares};
pub(super) use tokens::tokenize;
pub use upstream::Moved;
