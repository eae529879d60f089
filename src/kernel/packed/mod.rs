//! Products with weights that are packed once into the panels that the loops read, and rows that are packed as they
//! come. A row of a result depends on its own row alone, bit for bit.

#[cfg(target_arch = "x86_64")]
mod amx;
mod bf16;
mod blocks;
mod frozen;
mod gemm;
mod int8;
mod linear;
mod panels;
mod words;

pub use self::blocks::Blocks;
pub use self::frozen::{
    FrozenMatrix, LowRank, LowRankUpdate, rounded_product, rounded_product_of_rows,
};
pub(crate) use self::gemm::{SLACK, inverse_rms, pack_tile, tile};
pub use self::linear::{Activations, Format, Linear, Matrix};
pub use self::panels::Then;
pub(crate) use self::panels::rows;
pub(crate) use self::words::Words;
