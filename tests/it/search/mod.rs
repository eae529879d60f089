//! Search over real snapshots.

mod filtered;
pub mod opened;
mod watcher;
