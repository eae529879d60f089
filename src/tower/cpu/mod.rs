//! Towers on this machine's processor.
//!
//! Threads are pinned to work, not to operations: a batch is cut into groups of whole sequences, and each
//! thread takes one group through all layers in working memory that stays in its cache, without waiting for
//! another. Weights are packed at load into the panels that the kernels read.

mod decoder;
mod encoder;
mod format;
mod groups;
mod model;
mod vocabulary;

pub(crate) use self::decoder::CpuDecoder;
pub(crate) use self::encoder::CpuEncoder;
