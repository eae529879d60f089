//! Stages: typed options and an envelope in, a receipt out.
//!
//! [`plan`] reads the corpus and decides everything; [`execute`] runs one [`Envelope`] of it on any worker;
//! [`publish`] commits the result. Drivers differ only in where they call [`execute`].

mod backfill;
mod build;
mod calibrate;
mod chunker;
mod drift;
mod encode;
mod gates;
mod ids;
mod located;
mod options;
mod plan;
mod plan_summary;
mod prepare;
mod publish;
mod purge;
mod report;
mod report_html;
mod task;
mod texts;
mod verify;

pub use backfill::{
    Backfill, BackfillReport, BackfillState, BackfillSummary, tonight as backfill_tonight,
};
pub use build::{BuildReceipt, receipt as build_receipt};
pub use calibrate::CalibrateReceipt;
pub use drift::{encode_sample, measure_drift, self_test};
pub use encode::{EncodeReceipt, Quarantined, receipt as encode_receipt};
pub use gates::Override;
pub use options::{BuildOptions, ChunkingOptions, EncodeOptions, GateOptions};
pub use plan::{
    BuildTask, CalibrateTask, EncodeTask, Envelope, NoteChanges, PLAN_VERSION, Plan, RunSpec,
    ShardPlan, absolute_tower,
};
pub use plan_summary::{PlanAmounts, PlanBrief, PlanSummary, ShardSummary};
pub use prepare::{PlanRequest, Planned, plan};
pub use publish::{PublishRequest, Published, publish};
pub use purge::{Left, PurgeReport, PurgeRequest, Scanned, SharedText, lift, purge};
pub use report::{
    Amounts, ConfigSummary, CorpusCounts, LengthBucket, LengthHistogram, NewestSnapshot, Outcome,
    REPORT_VERSION, RunReport, StageReport, ThroughputSample,
};
pub use task::{TaskEnv, TaskReceipt, Worker, execute};
pub use texts::vectors_of;
pub use verify::{SampleCheck, verify_sample};
