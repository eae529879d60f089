//! Files that describe their columns themselves: Parquet, Arrow, Avro.

mod avro;
mod infer;
mod ipc;
mod parquet;
mod pieces;
mod refusal;
mod unify;
mod unpack;

pub(super) use infer::{Described, own};
pub(super) use parquet::Weighed;
pub(super) use pieces::Pieces;
