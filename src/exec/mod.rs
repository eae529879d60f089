//! Drivers: they decide where and in which order envelopes run, never what a task does.
//!
//! [`run`] is the driver: one worker for each device of this process, or the executors of a cluster
//! ([`RunOptions::cluster`]). A scheduler that owns the order (Airflow, Kubernetes) calls
//! [`plan_brief`], [`execute_share`] or [`execute_task`] for its tasks, and [`publish_plan`] at last. [`learn`] makes towers.
//!
//! `context` is what a run is given and holds; `tasks` and `ballista` get work done; the files here say in which order.

mod admission;
mod backfill;
#[cfg(feature = "cluster")]
mod ballista;
mod commit;
mod context;
mod copy;
mod doctor;
mod explain;
mod fleet;
pub mod learn;
mod machine;
mod plan;
mod publish;
mod purge;
mod run;
mod shares;
mod tasks;

#[cfg(feature = "cluster")]
pub use self::ballista::{ExecutorOptions, Scheduler, SchedulerOptions, run_executor};
#[cfg(not(feature = "cluster"))]
pub use context::not_built;
pub use context::{ClusterOptions, RunContext, RunOptions, SchedulerAddress};
pub use context::{check_query_tower, new_run_id};
pub use copy::copy;
pub use doctor::{Check, Checkup, CheckupRequest, Health, examine};
pub use explain::{ExplainRequest, Explained, explain};
pub use plan::{plan, plan_brief, plan_gathered, plan_shares};
pub use publish::publish_plan;
pub use purge::{purge, purge_again, repair, told_of_again};
pub use run::{run, run_into};
pub use shares::execute_share;
pub use tasks::{Share, ShareDone, TaskStage, encode_texts, execute_task};
