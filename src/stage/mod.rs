//! Stages: typed options + envelope -> receipt.

mod options;

pub use options::{BuildOptions, ChunkingOptions, EncodeOptions, GateOptions};
