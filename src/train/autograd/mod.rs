//! Operations with a backward pass of our own, on candle's tensors and on slices.

pub(super) mod attention;
pub(super) mod gelu;
mod heads;
pub(super) mod kernels;
pub(super) mod layer_norm;
pub(super) mod linear;
pub(super) mod ops;
