//! The files of the corpus: found, looked over, registered as tables.

mod avro;
mod bytes;
mod csv;
mod declared;
mod encoding;
pub(super) mod file;
pub(super) mod find;
mod infer;
mod ipc;
mod json;
mod learn;
mod named;
mod open;
mod provider;
pub(super) mod tables;
mod text;
mod types;
mod unify;
