//! Towers on candle tensors: the same packed forward pass for any device that candle knows.

mod attention;
mod batch;
mod ceiling;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod encoder;
mod fault;
mod fused;
mod linear;
mod load;
mod parts;
mod relative;
mod self_test;
mod staging;
mod tower;
mod transfer;

pub(crate) use self::ceiling::ceiling;
pub(crate) use self::decoder::TensorDecoder;
pub(crate) use self::encoder::TensorEncoder;
pub(crate) use self::fault::is_out_of_memory;
pub(crate) use self::self_test::{test_decoder, test_encoder};
pub(crate) use self::tower::TensorTower;
pub(crate) use self::transfer::Landing;
