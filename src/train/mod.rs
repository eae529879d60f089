//! The two stages: train the towers from one LLM by contrast, then distil the query tower.
//!
//! Stage 1 ([`train`]) teaches the LLM to embed with InfoNCE over in-batch and hard negatives, by LoRA or in full,
//! on candle's autograd. Sequences are packed without padding; the operations that would be slow or have no
//! backward pass are our own (see `ops` and `attention`).

mod adapter;
mod attention;
mod batch;
mod bert;
mod case;
mod checkpoint;
mod decoder;
mod distill;
mod encoder;
mod entry;
mod export;
mod least_squares;
mod linear;
mod loss;
mod mine;
mod neighbours;
mod ops;
mod optimizer;
mod options;
mod pack;
mod pairs;
mod report;
mod step;
mod student;
mod trainer;

pub use adapter::{LoraOptions, LoraTarget};
pub use distill::{DistillOptions, Teacher, check_student, distill};
pub use entry::{export, train};
pub use mine::{Candidates, MineOptions, MineReport, mine, write_pairs};
pub use neighbours::Neighbours;
pub use options::{
    FullOptions, Method, OptimizerOptions, Order, QuerySide, TrainOptions, ValidationOptions,
};
pub use pack::{PackOptions, Vocabulary, pack_student};
pub use pairs::{keep_answered, open_pairs};
pub use report::{StepRecord, TrainReport, ValidationRecord};
pub use student::StudentOptions;
pub use trainer::{Side, Tokenize, TrainInput, export_checkpoint, train_decoder};

#[cfg(test)]
mod apart_tests;
#[cfg(test)]
mod distill_tests;
#[cfg(test)]
mod encoder_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_support;

use crate::error::{Error, ErrorKind};

/// Bytes of stack of a thread that trains: the tensor library walks a graph by recursion.
pub const STACK: usize = 64 << 20;

/// Turns an error of the tensor library into ours.
fn tensor_error(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("tensor operation failed: {error}"))
}
