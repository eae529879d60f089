//! Proposes a pipeline for files that somebody has: which column is the id, which are text, and a commented file with all
//! of it.

mod columns;
mod file;

pub use columns::{Choices, Proposal, propose};
pub use file::{Place, pipeline_file};
