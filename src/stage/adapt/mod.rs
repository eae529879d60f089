//! Stage `adapt`: the query tower learns to place the corpus's own titles and sentences where the LLM places them.
//!
//! ```text
//! draw titles and sentences by hash -> few new ones? keep yesterday's tower
//!     -> LLM vectors -> steps of distillation over the notes' vectors -> does it find the held-out texts' notes? -> store
//! ```
//!
//! What it learnt from and what it found is stored beside its weights, so that tomorrow's run knows whether it has to
//! learn again, and a purge whether it read a note.

mod draw;
mod judge;
mod learn;
mod read;
mod receipt;
mod task;

pub use judge::{Found, Judged};
pub(super) use read::purged_notes;
pub use receipt::{AdaptOutcome, AdaptReceipt, AdaptSummary, AdaptedTower, receipt};
pub(super) use task::adapt;
