//! Opening a published snapshot and searching it: the reference reader of every file that serving needs.
//!
//! ```text
//! manifest -> per shard: usearch file + f16 sidecar (mapped), ids file (mapped, read when asked)
//! query text -> tower named in the manifest, fingerprint checked -> every shard -> best chunk per note -> k best
//! ```

mod ids;
mod opened;
mod query;

pub use opened::{Found, Snapshot};
pub use query::QueryEncoder;
