//! Drivers: they decide where and in which order envelopes run, never what a task does.
//!
//! [`run`] is the driver: one worker for each device of this process, or the executors of a cluster
//! ([`RunOptions::cluster`]). A scheduler that owns the order (Airflow, Kubernetes) calls
//! [`plan_brief`], [`execute_share`] or [`execute_task`] for its tasks, and [`publish_plan`] at last.

mod admission;
mod backfill;
#[cfg(feature = "cluster")]
mod ballista;
mod cluster;
mod commit;
mod context;
mod fleet;
mod lease;
mod local;
mod memory;
mod plan;
mod publish;
mod purge;
mod receipts;
mod run;
mod run_id;
mod session;
mod share;
mod speed;
mod texts;
mod towers;

#[cfg(feature = "cluster")]
pub use self::ballista::{ExecutorOptions, Scheduler, SchedulerOptions, run_executor};
#[cfg(not(feature = "cluster"))]
pub use cluster::not_built;
pub use cluster::{ClusterOptions, SchedulerAddress};
pub use context::{RunContext, RunOptions};
pub use plan::{plan, plan_brief};
pub use publish::publish_plan;
pub use purge::purge;
pub use run::{run, run_into};
pub use run_id::new_run_id;
pub use share::{Share, ShareDone, TaskStage, execute_share, execute_task};
pub use texts::encode_texts;
pub use towers::check_query_tower;
