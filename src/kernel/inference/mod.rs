//! What a tower does between its products, sequence by sequence and row by row.

mod activation;
mod attention;
mod bias;
mod heads;
mod norm;

pub use self::activation::{activate, add_bias};
pub use self::attention::{Attention, Heads, Scratch, Span};
pub use self::bias::DistanceBias;
pub use self::heads::PrepareHeads;
pub use self::norm::{layer_norm_rows, rms_norm_rows};
