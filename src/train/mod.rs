//! The two stages: train the towers from one LLM by contrast, then distil the query tower.
//!
//! Stage 1 ([`train`], in `contrast`) teaches the LLM to embed with InfoNCE over in-batch and hard negatives, by LoRA or
//! in full, on candle's autograd; `mine` finds the hard negatives for its next round. Stage 2 ([`distill()`], in `distill`)
//! teaches a student the query tower's vectors. Both run the loop of `training`; what learns is in `model`. Sequences are
//! packed without padding; the operations that would be slow or have no backward pass are our own, in `autograd`.

mod autograd;
mod checkpoint;
mod contrast;
mod distill;
mod faults;
mod files;
mod gradients;
mod head;
mod keep;
mod large_stack;
mod mine;
mod missing;
mod model;
mod optimizer;
mod options;
mod pairs;
mod report;
mod tensors;
mod training;
mod whiten;

pub use contrast::{
    FullOptions, LossOptions, Method, Order, QuerySide, Side, TeacherOptions, TeacherVectors,
    TextVectors, Tokenize, TrainData, TrainInput, TrainOptions, export, export_checkpoint, train,
    train_decoder,
};
pub use distill::{
    DistillOptions, Documents, PackOptions, Teacher, Vocabulary, check_student, distill,
    pack_student,
};
pub use large_stack::on_large_stack;
pub use mine::{Candidates, MineOptions, MineReport, Neighbours, mine, write_pairs};
pub use model::{LoraOptions, LoraTarget, StudentOptions};
pub use options::{OptimizerOptions, Schedule, ValidationOptions};
pub use pairs::{keep_answered, open_pairs};
pub use report::{StepRecord, TrainReport, ValidationRecord};
pub use whiten::{WhitenOptions, Whitening, crowding};

#[cfg(test)]
mod tests_support;
