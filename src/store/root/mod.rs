//! The root of a pipeline: one URI and the few operations on it that the pipeline needs.

mod checked;
mod clock;
mod create;
mod handle;
mod listing;
mod nesting;
mod object;
mod open;
mod transfer;
mod upload;

pub(crate) use checked::damaged;
pub use handle::Root;
pub use listing::{Foreign, Foreigners};
pub use object::{FileRef, Listed, PutOutcome};
pub(crate) use open::file_in_the_way;
pub use open::{open_store, open_web_file};
pub use transfer::hash_file;
