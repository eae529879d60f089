//! Stage 1: the towers learn from one LLM by contrast.
//!
//! `entry` resolves towers and pairs, `build` makes the models, `trainer` runs the loop: `batch` draws the pairs of a
//! step, `step` embeds them and carries the gradient of `loss` back, `export` writes what was learnt.

mod batch;
mod build;
mod entry;
mod export;
mod input;
mod loss;
mod options;
mod step;
mod trainer;

pub use entry::{export, train};
pub use input::{Side, Tokenize, TrainInput};
pub use options::{FullOptions, Method, Order, QuerySide, TrainOptions};
pub use trainer::{export_checkpoint, train_decoder};

#[cfg(test)]
mod apart_tests;
#[cfg(test)]
mod tests;
