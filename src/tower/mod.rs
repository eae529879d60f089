//! Towers: packed decoder LLMs and encoders, their tokenizers, and where both come from.
//!
//! `files` and `tokenize` read what a model is, `model` says it, `cpu` and `tensor` compute it; [`Tower`] brings them
//! together.

mod card;
mod cpu;
mod decoder;
mod device;
mod encoder;
mod encoder_tower;
mod fake;
#[cfg(test)]
mod families;
mod files;
mod known;
mod model;
mod opened;
mod options;
mod pinned;
mod resolve;
mod tensor;
#[cfg(test)]
mod testing;
mod tokenize;
mod trained;
mod understood;

pub use decoder::{Decoder, decoder_encoder};
pub use device::open_cuda;
pub use encoder::{Computed, Encoder, Running, Started};
pub(crate) use files::lora::Adapter as StoredAdapter;
pub use files::packed::{KEY as PACKED_KEY, Packed, Parts};
pub(crate) use files::provenance::check_tokenizer;
pub(crate) use files::safetensors::SafetensorsFile;
pub use model::architecture::{DecoderConfig, Gemma, Sliding, WeightSource};
pub use options::{Defaults, DeviceSpec, Side, SpecialTokens, TowerOptions};
pub use resolve::Tower;
pub(crate) use tensor::is_out_of_memory;
pub use tokenize::batch::pack;
pub use tokenize::tokenizer::{Tokenized, TowerTokenizer};
pub use trained::{Exported, Fit};
pub use understood::Understood;
