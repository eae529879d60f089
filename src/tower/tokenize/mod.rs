//! From texts to token ids, and from their lengths to batches.

pub(crate) mod batch;
pub(crate) mod gguf;
mod patterns;
mod plain;
mod safe_cut;
pub(crate) mod tokenizer;
