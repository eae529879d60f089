//! The towers beside other implementations of the same models.

mod authors;
mod broken;
mod device;
mod encoder_gguf;
mod encoders;
mod families;
pub mod golden;
mod parity;
