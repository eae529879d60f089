//! The tasks of a run on an Apache Ballista cluster.
//!
//! ```text
//! driver (`run --cluster`)          scheduler                executors, one for each device
//!   lease, cut tasks  -- one plan -->  queue  <-- poll --  WorkExec: one row is one task -> Station::run
//!   look at books and receipts  <---------- the root ----------  receipts, books
//!   judge, publish
//! ```
//!
//! A job is a scan of tasks, one a partition, below [`plan::WorkExec`]: no exchange, so that losing an executor costs
//! the tasks it had and nothing else. Executors ask the scheduler for work and listen on nothing; what they find out
//! goes to the root as receipts, first one wins, which is why a task may be done twice. The driver reads results there
//! and never from an executor: its rows only say that a task is done.
//!
//! `prepare` is one task too. Ballista's hash exchange, which would spread it over executors, hangs where an executor
//! is lost (measured); and prepare streams one total order of rows into shards with a few hundred MiB, whatever the
//! corpus.

mod book;
mod driver;
mod executor;
mod job;
mod plan;
mod scheduler;
mod station;
mod work;

pub(super) use driver::Driver;
pub use executor::{ExecutorOptions, run_executor};
pub use scheduler::{Scheduler, SchedulerOptions};

/// Largest gRPC message: a job carries all of its tasks, some 4 KiB each.
const MAX_MESSAGE: usize = 256 << 20;

/// Jobs of more tasks than this are cut: what fits in [`MAX_MESSAGE`] with room to spare.
const MAX_WORKS: usize = 16_384;
