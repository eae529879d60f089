//! The files of the corpus: found, looked over, registered as tables.

mod avro;
pub(super) mod file;
mod frames;
mod infer;
mod ipc;
pub(super) mod tables;
