//! One root URI and the few operations on it that the pipeline needs.
//!
//! Nothing is ever overwritten: [`Root::put_if_absent`] is the one way to decide a race, every other
//! object gets an attempt-unique name. Keys are relative to the root, use `/`, and come from [`layout`].

#[cfg_attr(not(rooms), doc(hidden))]
pub mod border;
mod cloud;
mod error;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod key;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod layout;
mod local;
pub(crate) mod named;
mod parquet;
mod pieces;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod receipt;
mod root;
mod signing;

pub use border::Border;
pub use cloud::{Repeats, StorageOptions};
pub use error::{kind_of_foreign, unreadable};
pub use local::{DurableLocal, Swept};
pub(crate) use local::{make_private, private_folder};
pub use parquet::{ParquetObject, parquet_error};
pub use pieces::{Cutter, FileHasher, Pieces};
pub use root::{
    FileRef, Foreign, Foreigners, Listed, PutOutcome, Root, hash_file, open_store, open_web_file,
};
pub(crate) use root::{damaged, file_in_the_way};
pub use signing::{Keys, PublicKey, SIGNING_KEY, SIGNING_KEY_FILE, SigningKey};
