//! The decoder tower on candle tensors.

mod attention;
mod decoder;
mod fault;
mod transfer;

pub(crate) use self::decoder::TensorDecoder;
pub(crate) use self::transfer::Landing;
