//! Stage 1: the towers learn from one LLM by contrast, and from a teacher's scores.
//!
//! `entry` resolves towers, `data` reads pairs and texts, `build` makes the models, `trainer` drives one step of the training loop: `batch` draws
//! the texts of a step in the `order` of their sources, `step` embeds them and carries the gradient of the `objective`
//! back, `dev` looks at what is held out, `export` writes what was learnt.

mod batch;
mod build;
mod data;
mod dev;
mod entry;
mod export;
mod input;
mod objective;
mod options;
mod order;
mod step;
mod taught;
mod teacher;
mod trainer;

pub use data::TrainData;
pub use entry::{export, train};
pub use input::{Side, Tokenize, TrainInput};
pub use objective::LossOptions;
pub use options::{FullOptions, Method, Order, QuerySide, TrainOptions};
pub use teacher::{TeacherOptions, TeacherVectors, TextVectors};
pub use trainer::{export_checkpoint, train_decoder};

#[cfg(test)]
mod apart_tests;
#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;
