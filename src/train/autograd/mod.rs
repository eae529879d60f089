//! Operations with a backward pass of our own, on candle's tensors and on slices.

pub(super) mod attention;
pub(super) mod linear;
pub(super) mod ops;
mod rows;
