//! Stages: typed options and an envelope in, a receipt out.

mod options;
mod plan_summary;
mod receipt;
mod report;
mod report_html;

pub use options::{BuildOptions, ChunkingOptions, EncodeOptions, GateOptions};
pub use plan_summary::{PlanAmounts, PlanSummary, ShardPlan};
pub use receipt::TaskReceipt;
pub use report::{
    Amounts, ConfigSummary, CorpusCounts, LengthBucket, LengthHistogram, Outcome, REPORT_VERSION,
    RunReport, StageReport, ThroughputSample,
};
