//! Search over real snapshots.

mod bounded;
mod filtered;
mod opened;
mod python;
mod watcher;
