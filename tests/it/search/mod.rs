//! Search over real snapshots.

mod beside;
mod bounded;
mod filtered;
mod opened;
mod python;
mod watcher;
