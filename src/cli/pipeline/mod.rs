//! What carries a pipeline out: all of it, or one step at a time under a scheduler.

mod metrics;
mod next;
pub(super) mod plan;
pub(super) mod publish;
pub(super) mod run;
pub(super) mod task;
