//! A model's files: found or fetched, read, checked and hashed.

pub(crate) mod config;
mod custom_code;
pub(crate) mod disk;
pub(crate) mod encoder;
mod fields;
mod foreign;
pub(crate) mod gguf;
pub(crate) mod gguf_config;
pub(crate) mod gguf_encoder;
mod gguf_keys;
pub(crate) mod gguf_modules;
pub(crate) mod hub;
pub(crate) mod licence;
pub(crate) mod lora;
pub(crate) mod packed;
pub(crate) mod provenance;
pub(crate) mod safetensors;
pub(crate) mod sentence;
pub(crate) mod source;
mod stamp;
pub(crate) mod weights;
pub(crate) mod whole;
