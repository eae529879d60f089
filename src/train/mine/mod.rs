//! Hard negatives for the next round of training: documents that the tower ranks high and that do not answer.

mod negatives;
mod neighbours;

pub use negatives::{Candidates, MineOptions, MineReport, mine, write_pairs};
pub use neighbours::Neighbours;
