//! From the rows of the user's SQL to prepared shards.

mod changes;
mod check;
mod contract;
mod dedupe;
mod digest;
mod exchange;
mod filters;
mod gather;
mod hints;
mod job;
mod look;
mod newest;
mod note_ids;
mod open;
mod origin;
mod per_row;
mod reader;
mod render;
mod schema;
mod shard;
mod shared;
mod shares;
mod source;
mod split;
mod template;
mod times;
mod updated;
mod values;
mod writer;

pub use changes::FeedRequest;
pub use check::check;
pub use digest::{DigestRow, ShardDigest};
pub use job::{PrepareRequest, SMALL_CORPUS, prepare};
pub use look::{Look, LookRequest, Wanted, look};
pub use open::{CorpusInput, Earlier};
pub use reader::PreparedReader;
pub use render::{Chunker, Exclude, KnownText};
pub use schema::{RESERVED_COLUMNS, prepared_schema};
pub use shared::{
    SharedCorpus, Sharing, clear_shares, gather_shards, prepared_shares, read_shares, share,
};
pub use template::check_template_length;
