//! Stages: typed options and an envelope in, a receipt out.
//!
//! [`plan`] reads the corpus and decides everything; [`execute`] runs one [`Envelope`] of it on any worker;
//! [`publish`] commits the result. Drivers differ only in where they call [`execute`].

mod backfill;
mod build;
mod calibrate;
mod compare;
mod device;
mod drift;
mod encode;
mod entries;
mod gates;
mod ids;
mod index_job;
mod lengths;
mod live;
mod located;
mod options;
mod plan;
mod prepare;
mod publish;
mod purge;
mod segments;
mod task;
mod texts;
mod tokens;
mod verify;
mod windows;

pub use backfill::{Backfill, tonight as backfill_tonight};
pub use build::{BuildReceipt, BuildWork, receipt as build_receipt};
pub use calibrate::CalibrateReceipt;
pub use device::help;
pub use drift::{encode_sample, measure_drift, refuse_drift, self_test};
pub use encode::{EncodeReceipt, Quarantined, receipt as encode_receipt};
pub use gates::Override;
pub(crate) use lengths::length_bucket;
pub use live::PartsSummary;
pub use options::{BuildOptions, ChunkingOptions, EncodeOptions, GateOptions};
pub use plan::{
    BuildTask, CalibrateTask, EncodeTask, Envelope, NoteChanges, PLAN_VERSION, ParentIndex,
    ParentShard, Plan, RunSpec, ShardPlan, absolute_tower,
};
pub use prepare::{PlanRequest, Planned, plan};
pub use publish::{PublishRequest, Published, publish};
pub use purge::{Left, PurgeReport, PurgeRequest, Scanned, SharedText, lift, purge};
pub use task::{Kept, TaskEnv, TaskReceipt, Worker, execute};
pub use texts::vectors_of;
pub use verify::{SampleCheck, verify_sample};
pub use windows::{Owner, SharedWork, Windows};
