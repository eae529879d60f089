//! Collecting garbage: what may be deleted, and deleting it beside publishers and readers.

mod collect;
mod names;
mod sweep;

pub use collect::{GcReport, Protected, Retention, gc};
pub(super) use names::files_in;
pub(crate) use names::strings_in;
pub(super) use sweep::{Heed, delete, in_order};
