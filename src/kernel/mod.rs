//! Arithmetic on slices of numbers, as fast as this processor has it, and nothing about models, files or tensors.
//!
//! What is called from outside is a plain function or method; the loops behind it are compiled once for every
//! instruction set (`simd`) and entered by what the machine has.
//!
//! - `packed`: products with weights that are packed once, in f32, bf16 and 8-bit integers.
//! - `inference`: what a tower does between its products.
//! - `training`: operations and their gradients.
//! - `product`: products of any two matrices; `rows`: sums over rows; `window`: which keys attention sees.
//! - `rotation`: a fixed pseudo-random rotation.
//! - [`distance`]: one query against stored codes; [`graph`]: search in a graph over them.

#![warn(missing_docs)]

mod buffer;
mod choice;
pub mod distance;
mod elementary;
pub mod graph;
mod inference;
mod lanes;
mod packed;
mod prefetch;
mod product;
mod rotation;
mod rows;
mod simd;
mod training;
mod transpose;
mod window;

pub use self::buffer::Buffer;
pub use self::choice::{chosen, has_bf16};
pub use self::elementary::Activation;
pub use self::inference::{
    Attention, DistanceBias, Heads, PrepareHeads, Scratch, Span, activate, add_bias,
    layer_norm_rows, rms_norm_rows,
};
pub use self::packed::{
    Activations, Blocks, Format, FrozenMatrix, Linear, LowRank, LowRankUpdate, Matrix, Then,
    rounded_product, rounded_product_of_rows,
};
pub use self::prefetch::prefetch;
pub use self::product::{Target, View, product};
pub use self::rotation::Rotation;
pub use self::rows::{add_columns, add_to, dot, dot_f16, mean};
pub use self::simd::Isa;
pub use self::training::{Angles, Head, Norm, adam, add_outer, copy_rows, gelu, rms_norm, swiglu};
pub use self::transpose::transposed;
pub use self::window::Window;
