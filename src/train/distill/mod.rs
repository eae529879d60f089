//! Stage 2: query-based knowledge distillation. Queries alone, no documents: the student learns to place a query
//! where the frozen LLM query tower places it, so the document vectors stay as they are. `pack` makes the student small
//! enough to be shipped.

mod loss;
mod options;
mod pack;
mod run;

pub use options::DistillOptions;
pub use pack::{PackOptions, Vocabulary, pack_student};
pub use run::{Documents, Teacher, check_student, distill};

#[cfg(test)]
mod tests;
