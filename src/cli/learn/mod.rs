//! Training, distilling, mining and judging towers.

pub(super) mod distill;
pub(super) mod evaluate;
mod long_run;
pub(super) mod mine;
mod pack;
mod pair_file;
mod recipe;
pub(super) mod train;
mod trained;
pub(super) mod whiten;
