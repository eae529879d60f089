//! What learns: the decoder LLM with its adapter, and the students, small encoders among them.

pub(super) mod adapter;
pub(super) mod bert;
mod case;
pub(super) mod decoder;
mod encoder;
mod layers;
mod least_squares;
mod projection;
pub(super) mod student;

pub use adapter::{LoraOptions, LoraTarget};
pub use student::StudentOptions;

#[cfg(test)]
mod encoder_tests;
