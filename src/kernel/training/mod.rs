//! Operations and their gradients. Sums over rows do not depend on the threads.

pub mod adam;
pub mod gelu;
mod head;
mod layer_norm;
mod outer;
pub mod rms_norm;
mod rotate;
pub mod swiglu;
mod task;

pub use self::head::Head;
pub use self::layer_norm::Norm;
pub use self::outer::add_outer;
pub use self::rotate::{Angles, copy_rows};
