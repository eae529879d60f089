//! Memory that building an index takes, and how much there is.

use crate::error::{Error, Result};
use crate::exec::machine;
use crate::index;
use crate::stage::BuildTask;

/// Share of the free memory that builds take where the configuration names no limit, in percent.
const DEFAULT_SHARE: u64 = 80;

/// What building a shard takes, in MiB.
pub(crate) fn needed_mib(task: &BuildTask) -> u32 {
    let dimensions = task.spec.space.dimensions;
    let vectors = task.shard.prepared.rows;
    let bytes = index::estimate_memory(vectors, dimensions, &task.spec.index);
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).max(1)
}

/// What builds may take on this machine, in MiB.
pub(crate) fn limit_mib(configured: Option<u64>) -> u32 {
    let mib = configured.or_else(free_mib).unwrap_or(4096);
    u32::try_from(mib).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4)
}

/// Refuses a shard that does not fit.
///
/// # Errors
/// Resource, with the number of shards that would fit.
pub(crate) fn refuse_too_large(task: &BuildTask, limit_mib: u32) -> Result<()> {
    let needed = needed_mib(task);
    if needed <= limit_mib {
        return Ok(());
    }
    Err(Error::resource(format!(
        "building shard {} needs about {needed} MiB and {limit_mib} MiB may be taken; set index.shards to \
             at least {}, or raise index.memory_limit_mib",
        task.shard.prepared.shard,
        task.spec.shard_count.saturating_mul(needed.div_ceil(limit_mib.max(1)))
    )))
}

/// 80% of what this process may still take; `None` where the system does not say.
fn free_mib() -> Option<u64> {
    machine::memory().map(|memory| memory.free / (1 << 20) * DEFAULT_SHARE / 100)
}
