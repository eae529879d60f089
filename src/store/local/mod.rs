//! A root in a local folder: durable writes, and what a killed process leaves.

mod blocking;
mod durable;
mod link;
mod private;
mod staged;
mod walk;

pub(super) use blocking::blocking;
pub use durable::DurableLocal;
pub use private::{make_private, private_folder};
pub use staged::Swept;
pub(super) use staged::sweep;
pub(super) use walk::{LocalFile, walk};
