//! Search over real snapshots.

mod filtered;
mod opened;
mod watcher;
