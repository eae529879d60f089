//! The tasks of a run on an Apache Ballista cluster.
//!
//! ```text
//! driver (`run --cluster`)          scheduler                executors, one for each device
//!   lease, cut tasks  -- one plan -->  queue  <-- poll --  TasksExec: one row is one task -> Runner::run
//!   look at statuses and receipts  <---------- the root ----------  receipts, statuses
//!   judge, publish
//! ```
//!
//! A job is a scan of tasks, one a partition, below [`plan::TasksExec`]: no exchange, so that losing an executor costs
//! the tasks it had and nothing else. Executors ask the scheduler for work and listen on nothing; what they find out
//! goes to the root as receipts, first one wins, which is why a task may be done twice. The driver reads results there
//! and never from an executor: its rows only say that a task is done.
//!
//! `prepare` is a task that finds out how the corpus is read: in shares, which tasks read and other tasks gather, a shard
//! each, before one plans; or, where its SQL needs all rows in one place, by that task itself. Ballista's hash exchange hangs
//! where an executor is lost (measured); rows on their way to their shards go through the root instead.

mod driver;
mod executor;
mod job;
mod plan;
mod runner;
mod scheduler;
mod status;
mod task;

pub(super) use driver::Driver;
pub use executor::{ExecutorOptions, run_executor};
pub use scheduler::{Scheduler, SchedulerOptions};

/// Largest gRPC message: a job carries all of its tasks, some 4 KiB each.
const MAX_MESSAGE: usize = 256 << 20;

/// Jobs of more tasks than this are cut: what fits in [`MAX_MESSAGE`] with room to spare.
const MAX_TASKS: usize = 16_384;
