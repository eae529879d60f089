//! Stage `build`: the scale of quantised vectors, then one shard after the other becomes segments.

mod calibrate;
mod entries;
mod index_job;
mod segments;
mod shard;

pub(super) use calibrate::calibrate;
pub(super) use index_job::{IndexJob, IndexReceipt};
pub(super) use shard::build;
pub use shard::{BuildReceipt, BuildWork, receipt};
