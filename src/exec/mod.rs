//! Drivers: they decide where and in which order envelopes run, never what a task does.
//!
//! [`run`] is the driver: one worker for each device of this process, or the executors of a cluster
//! ([`RunOptions::cluster`]). A scheduler that owns the order (Airflow, Kubernetes) calls
//! [`plan_brief`], [`execute_share`] or [`execute_task`] for its tasks, and [`publish_plan`] at last. [`learn`] makes towers.
//!
//! ```
//! # use std::sync::Arc;
//! # use scalingnote::config::resolve_text;
//! # use scalingnote::error::Error;
//! # use scalingnote::observe::{Reporter, Silent};
//! # use scalingnote::store::Root;
//! # use scalingnote::types::Cancel;
//! use scalingnote::exec::{self, RunContext, RunOptions, Share, TaskStage};
//! use scalingnote::report::{Outcome, RunReport};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Error> {
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! # let notes = folder.path().join("notes.jsonl");
//! # std::fs::write(notes, "{\"note_id\": 1, \"body\": \"weak password\"}\n").expect("the notes are written");
//! # let file = r#"
//! #     version = 2
//! #     corpus.sql = "SELECT note_id, body FROM notes"
//! #     corpus.template = "{{ body }}"
//! #     corpus.tables = [{ name = "notes", uri = "notes.jsonl" }]
//! #     tower = { model = "fake:16", pooling = "mean" }
//! #     publish.root = "memory://scheduler"
//! # "#;
//! # let pipeline = resolve_text(file, "notes.toml", folder.path(), [], &[])?.pipeline;
//! # let root = Root::open(&pipeline.publish.root)?;
//! # let reporter: Arc<dyn Reporter> = Arc::new(Silent);
//! # let context = RunContext { pipeline, root, reporter, cancel: Cancel::new() };
//! let plan = exec::plan_brief(&context).await?;
//! let key = plan.plan_key.expect("there are notes that were never published");
//! // On any machines that reach the root; one whose answer was lost is asked again.
//! for stage in [TaskStage::Encode, TaskStage::Calibrate, TaskStage::Adapt, TaskStage::Build] {
//!     exec::execute_share(&context, &key, stage, Share::ALL, 3).await?;
//! }
//! let mut report = RunReport::default();
//! exec::publish_plan(&context, &key, &RunOptions::default(), &mut report).await?;
//! assert_eq!(report.outcome, Outcome::Published { snapshot: 1 });
//! # Ok(())
//! # }
//! ```
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
pub use doctor::{
    Check, Checkup, CheckupRequest, Health, examine, refuse_arithmetic, unusable_here,
};
pub use explain::{ExplainRequest, Explained, explain};
pub use plan::{plan, plan_brief, plan_gathered, plan_shares};
pub use publish::publish_plan;
pub use purge::{purge, purge_again, repair, told_of_again};
pub use run::{run, run_into};
pub use shares::execute_share;
pub use tasks::{Share, ShareDone, TaskStage, encode_texts, execute_task};

// What these functions take and give.
#[doc(inline)]
pub use crate::stage::{
    CopyReport, CopyRequest, Envelope, Plan, PurgeReport, PurgeRequest, SharesPlan, TaskReceipt,
};
