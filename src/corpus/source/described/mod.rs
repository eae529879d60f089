//! Files that describe their columns themselves: Parquet, Arrow, Avro.

mod avro;
mod infer;
mod ipc;
mod unify;

pub(super) use infer::{Described, own};
