//! The towers beside other implementations of the same models.

mod authors;
mod device;
pub mod golden;
mod parity;
