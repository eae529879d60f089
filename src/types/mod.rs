//! Plain data that every layer shares: identities, hashes, vectors, cancellation.

mod canary;
mod cancel;
mod card;
mod computing;
mod embeddings;
mod hash;
mod head;
mod note;
mod pair;
mod parallel;
mod random;
mod space;

pub use canary::{Canary, CanaryHit, HexKey};
pub use cancel::Cancel;
pub use card::{ModelCard, Sourced};
pub(crate) use computing::computing;
pub use embeddings::Embeddings;
pub use hash::{Digest256, Hasher256, TextHash, hash_json};
pub use head::{Activation, HeadModule};
pub use note::{NoteId, NoteKey, shard_of};
pub use pair::PairRecord;
pub(crate) use parallel::in_parallel;
pub use random::SplitMix64;
pub(crate) use random::mix;
#[cfg(test)]
pub(crate) use space::tests::space;
pub use space::{Arithmetic, ENCODER_REVISION, EmbeddingSpace, Pooling, SpaceId, VectorType};
