//! A root in a local folder: durable writes, and what a killed process leaves.

mod blocking;
mod durable;
mod staged;

pub(super) use blocking::blocking;
pub use durable::DurableLocal;
pub use staged::Swept;
pub(super) use staged::sweep;
