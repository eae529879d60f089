//! Object stores and web servers: their clients, how they are asked again, and what to say where they refuse.

mod advice;
mod client;
mod exact;
mod listen;
mod options;
mod ranges;
mod redirect;
mod repeat;
mod web;

pub(super) use advice::advice;
pub(super) use client::{Cloud, open, open_file, repeats};
pub(super) use listen::Heard;
pub use options::StorageOptions;
pub(super) use repeat::Attempts;
pub use repeat::Repeats;
pub(super) use web::Web;
