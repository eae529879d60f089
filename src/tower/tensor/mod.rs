//! The decoder tower on candle tensors.

mod attention;
mod ceiling;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod fault;
mod fused;
mod load;
mod parts;
mod self_test;
mod staging;
mod transfer;

pub(crate) use self::ceiling::ceiling;
pub(crate) use self::decoder::TensorDecoder;
pub(crate) use self::fault::is_out_of_memory;
pub(crate) use self::self_test::self_test;
pub(crate) use self::transfer::Landing;
