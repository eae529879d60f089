//! Stages: typed options and an envelope in, a receipt out.
//!
//! [`plan`] reads the corpus and decides everything; [`execute`] runs one [`Envelope`] of it on any worker;
//! [`publish`] commits the result. Drivers differ only in where they call [`execute`].

mod adapt;
mod backfill;
mod build;
mod calibration;
mod copy;
mod encode;
mod evaluation;
mod ids;
mod inputs;
mod lengths;
mod located;
mod options;
mod plan;
mod publish;
mod purge;
mod quarantine;
mod rows;
mod task;
mod vectors;
mod windows;
mod worker;
mod written;

pub use adapt::{
    AdaptOutcome, AdaptReceipt, AdaptSummary, AdaptedTower, Found, Judged, receipt as adapt_receipt,
};
pub use backfill::backfill_plan;
pub use build::{BuildReceipt, BuildWork, receipt as build_receipt};
pub use calibration::CalibrateReceipt;
pub use copy::{CopyReport, CopyRequest, copy};
pub use encode::{
    EncodeReceipt, SampleCheck, encode_sample, help, measure_drift, receipt as encode_receipt,
    refuse_drift, self_test, verify_sample,
};
pub use evaluation::{
    Against, Asked, Changes, Comparison, Crosswise, EvaluationOptions, EvaluationReport,
    EvaluationRequest, FirstHits, Group, Questions, Scores, SetScore, Worst,
};
pub use inputs::Inputs;
pub(crate) use lengths::length_bucket;
pub use options::{AdaptOptions, BuildOptions, ChunkingOptions, EncodeOptions, GateOptions};
pub use plan::{
    AdaptRequest, AdaptTask, Backfill, BuildTask, CalibrateTask, EncodeTask, Envelope, Moved,
    NoteChanges, NotesRequest, PLAN_VERSION, ParentIndex, ParentShard, PartsSummary, Plan,
    PlanRequest, Planned, RunSpec, SHARES_VERSION, ShardPlan, SharesPlan, SharesPlanned,
    absolute_tower, check_corpus, discard_prepared, look_at_note, plan, plan_shares,
    resolved_tower,
};
pub use publish::{Override, PublishRequest, Published, Verdicts, publish, refuse_other_tower};
pub use purge::{
    Left, PurgeReport, PurgeRequest, Risen, Scanned, SharedText, find_risen, lift, purge,
    purge_again,
};
pub use quarantine::Quarantined;
pub use task::{TaskReceipt, execute};
pub use vectors::vectors_of;
pub use windows::{Owner, SharedWork, Windows};
pub use worker::{Adopted, Kept, TaskEnv, Worker};
