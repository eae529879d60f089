//! What a run reports afterwards: its report as JSON, as text and as a page, its metrics for Prometheus, and what a
//! plan would do.

mod backfill;
mod charts;
mod comparison;
mod estimate;
mod fill;
mod lengths;
mod metrics;
mod page;
mod plan;
mod prometheus;
mod run;
mod text;

pub use crate::stage::{Asked, Changes, Comparison, Crosswise, Group, Scores, Worst};
pub use backfill::{BackfillReport, BackfillState, BackfillSummary};
pub(crate) use charts::{Interval, bar_chart, interval_series};
pub use lengths::LengthBucket;
pub use metrics::{check_metrics_file, write_metrics};
pub(crate) use page::page_templates;
pub(crate) use plan::truncation_warning;
pub use plan::{AdaptPlanned, PlanAmounts, PlanBrief, PlanSummary, ShardSummary, SharesBrief};
pub use run::{
    Amounts, ConfigSummary, CorpusCounts, NewestSnapshot, Outcome, PlannedAmounts, REPORT_VERSION,
    Reuse, RunReport, StageReport, ThroughputSample, Written,
};
