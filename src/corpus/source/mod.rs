//! The files of the corpus: found, looked over, registered as tables.

mod brought;
mod bytes;
mod csv;
mod declared;
mod described;
mod encoding;
mod engine;
pub(super) mod excerpt;
pub(super) mod file;
pub(super) mod find;
pub(super) mod groups;
mod json;
mod learn;
mod markdown;
mod named;
mod open;
mod own;
pub(super) mod pinned;
mod provider;
mod reading;
pub(super) mod tables;
mod text;
mod types;
